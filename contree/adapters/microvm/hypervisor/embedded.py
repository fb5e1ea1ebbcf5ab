"""An embedded libvirt: its directory, its settings, its URI.

`qemu:///embed?root=DIR` runs libvirt's QEMU driver inside this process, without a daemon, and
without root. Everything it keeps lies below DIR, which one process at a time can use. The answers
of its QEMU probe are kept apart, in a directory that may outlive DIR. It does not open anything.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
from pathlib import Path

from contree.domain.errors import GuestFailure

QEMU_USER = "libvirt-qemu"
"""libvirt as root refuses to start without this user, though we do not let it use it."""

SETTINGS = """\
# Written by contree at each start.
stdio_handler = "file"
security_driver = "none"
security_default_confined = 0
"""

SETTINGS_OF_ROOT = """\
user = "root"
group = "root"
dynamic_ownership = 0
cgroup_controllers = []
namespaces = []
remember_owner = 0
"""
"""Owners are what they are; to remember them, libvirt forks this process five times a guest."""

CAPABILITY_FILTER = 'capability_filters = [ "cpu-unavailable-features" ]\n'
"""Spares 400 property reads, 0.3 s, at each start; libvirt calls it a testing knob, so the caller
must be able to do without."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - shm_overview(7); see _keep_notes_in_memory
_NOTES = "run"  # libvirt's directory of running guests, below its root
_MONITOR_SOCKET = "lib/qemu/domain-1000000-contree-0123456789ab/monitor.sock"
UNIX_PATH_BYTES_MAX = 107  # sun_path of unix(7), less its terminator


def embed_uri(root: Path) -> str:
    return f"qemu:///embed?root={root}"


def prepare(root: Path, *, probe_cache: Path, capability_filter: str) -> None:
    """Make `root` ready to be opened, `capability_filter` being CAPABILITY_FILTER or "".

    What an earlier process left there of running guests is forgotten: the caller has ended them.
    Raises GuestFailure, naming the fix, when libvirt could not start here.
    """
    longest = root / _MONITOR_SOCKET
    if len(os.fsencode(longest)) > UNIX_PATH_BYTES_MAX:
        raise GuestFailure(
            f"the runtime directory makes socket paths such as {longest} longer than "
            f"{UNIX_PATH_BYTES_MAX} bytes: choose a shorter one"
        )
    privileged = os.geteuid() == 0
    if privileged:
        _require_qemu_user()
    for state in ("lib", "log"):
        shutil.rmtree(root / state, ignore_errors=True)
    forget(root)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not in_memory(root):
        _keep_notes_in_memory(root)
    settings = root / "etc" / "qemu.conf"
    settings.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.write_text(SETTINGS + (SETTINGS_OF_ROOT if privileged else "") + capability_filter)
    probe_cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    cache = root / "cache"
    if not cache.is_symlink():
        shutil.rmtree(cache, ignore_errors=True)
        cache.symlink_to(probe_cache.resolve(), target_is_directory=True)


def forget(root: Path) -> None:
    """Remove the notes on running guests, wherever they are. No libvirt may be open on `root`."""
    notes = root / _NOTES
    if notes.is_symlink():
        shutil.rmtree(notes.readlink(), ignore_errors=True)
        notes.unlink()
    else:
        shutil.rmtree(notes, ignore_errors=True)


def in_memory(path: Path) -> bool:
    """Whether `path` is on a tmpfs; proc(5), mountinfo."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return any(m[2] == number and m[m.index("-") + 1] == "tmpfs" for m in mounts)


def _keep_notes_in_memory(root: Path) -> None:
    """Put them into SHARED_MEMORY, if that is possible.

    libvirt writes and fsyncs them a dozen times a guest, milliseconds each on a disk, so that they
    survive what we let no guest survive.
    """
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    place = SHARED_MEMORY / f"contree-{name}"
    shutil.rmtree(place, ignore_errors=True)  # of a process whose `root` was removed
    try:
        place.mkdir(mode=0o700)  # ours and new, or nothing: everybody may write there
    except OSError:
        return
    (root / _NOTES).symlink_to(place, target_is_directory=True)


def _require_qemu_user() -> None:
    try:
        pwd.getpwnam(QEMU_USER)
    except KeyError:
        raise GuestFailure(
            f"libvirt run by root needs a system user and group '{QEMU_USER}': create them with "
            f"`useradd --system --user-group --shell /usr/sbin/nologin {QEMU_USER}`, "
            "or run as an ordinary user"
        ) from None


def domain_log(root: Path, name: str) -> Path:
    """Where this libvirt keeps what the QEMU of domain `name` says on standard error."""
    return root / "log" / "qemu" / f"{name}.log"


def pid_file(root: Path, name: str) -> Path:
    """Where this libvirt keeps the process number of the QEMU of domain `name`."""
    return root / _NOTES / "qemu" / f"{name}.pid"
