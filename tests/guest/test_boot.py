"""The released agent in bare QEMU with the real kernel and real disks; layers by mksquashfs."""

import errno
import hashlib
import io
import itertools
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.commands import PciAddress
from contree.adapters.microvm.boot.initramfs import build_initramfs, find_modules
from contree.adapters.microvm.agent.messages import (
    AgentState,
    Configured,
    GuestError,
    GuestErrorCode,
    Output,
    Prepared,
    Signalled,
    Spawned,
    SpawnStage,
    Stream,
)
from infra.images.registry import PACKAGES_DIR
from tests.guest.raw_guest import LAYERS_SLOT, SCRATCH_SLOT, RawGuest, boot, configuration
from tests.guest.session import PATIENCE_S, Session

pytestmark = pytest.mark.vm

MTIME = 1_500_000_000
XATTR = "SCHILY.xattr."
TOOLS = [
    "sh",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "echo",
    "env",
    "find",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mknod",
    "mount",
    "mv",
    "printf",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "test",
    "touch",
    "tr",
    "true",
    "unshare",
    "wc",
]
Boot = Callable[..., AbstractContextManager[RawGuest]]


def entry(name: str, kind: bytes, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, 0o755, MTIME
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def squashfs(path: Path, tar: bytes) -> Path:
    """Make `path` the squashfs of a tar that is already in overlay form."""
    tree = path.with_suffix(".tree")
    tree.mkdir()
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as archive:
        archive.extractall(tree, numeric_owner=True, filter="fully_trusted")
        for member in archive:
            if member.issym():  # extractall leaves their times alone
                os.utime(tree / member.name, (0, member.mtime), follow_symlinks=False)
            for key, value in member.pax_headers.items():
                if key.startswith(XATTR):
                    os.setxattr(tree / member.name, key.removeprefix(XATTR), value.encode())
    made = subprocess.run(
        ["mksquashfs", tree, path, "-quiet", "-no-progress", "-noappend", "-comp", "lz4"],
        check=False,
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    return path


def layer(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return squashfs(path, out.getvalue())


def members(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getmembers()


def directory(name: str, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.DIRTYPE, **fields), b""


def file(name: str, data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.REGTYPE, mode=0o644), data


def whiteout(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.CHRTYPE, devmajor=0, devminor=0), b""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with busybox, and no mount points at all."""
    busybox = (PACKAGES_DIR / "busybox-static" / "bin" / "busybox").read_bytes()
    program = entry("bin/busybox", tarfile.REGTYPE)
    links = [(entry(f"bin/{tool}", tarfile.SYMTYPE, linkname="busybox"), b"") for tool in TOOLS]
    path = tmp_path_factory.mktemp("base") / "base.sqfs"
    return layer(
        path,
        directory("./"),
        directory("bin"),
        (program, busybox),
        *links,
        directory("etc"),
        file("etc/old", b"old"),
        directory("srv"),
        file("srv/a", b"a"),
        file("srv/b", b"b"),
    )


@pytest.fixture(scope="module")
def start(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """Boots a guest of the given layers."""
    package = PACKAGES_DIR / "linux-image-cloud-amd64"
    (kernel,) = (package / "boot").glob("vmlinuz-*")
    (modules,) = (package / "lib" / "modules").iterdir()
    initramfs = tmp_path_factory.mktemp("initramfs") / "initramfs.cpio"
    build_initramfs(built / "agent", find_modules(modules), initramfs)
    return partial(boot, kernel=kernel, initramfs=initramfs)


def configure(session: Session, layers: Sequence[Path], hostname: str = "guest") -> Configured:
    session.send(commands.configure(configuration(len(layers), hostname)))
    return session.expect(Configured)


def test_the_root_is_the_image_and_an_unchanging_run_changes_nothing(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    top = layer(
        tmp_path / "top.sqfs",
        directory("./", mode=0o711, uid=7, gid=8, mtime=MTIME + 5),
        whiteout("etc"),
        directory("srv", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"}),
        file("srv/c", b"c"),
    )
    layers = [base, top]
    before_s = time.time()
    with start(tmp_path, layers=layers) as guest:
        session = guest.session
        assert session.hello().agent_pid == 1
        configure(session, layers, hostname="linuxkit")
        lines = session.shell(
            1,
            "ls / /srv; hostname; date +%s; cat /proc/sys/kernel/random/boot_id; ip addr show lo;"
            "stat -c '%a %u %g %Y' /; readlink /proc/self/root; echo x > /dev/null;"
            "unshare -r id -u; ls -A /dev /dev/shm; echo $$ > /dev/shm/x; grep -c . /proc/mounts",
        ).decode()
        words = lines.split()
        assert words[: words.index("linuxkit")] == [
            "/:",
            "bin",
            "dev",
            "etc",
            "proc",
            "srv",
            "sys",
            "/srv:",
            "c",
        ]
        assert before_s - 2 < int(words[words.index("linuxkit") + 1]) < time.time() + 2
        assert "127.0.0.1/8" in words
        assert "711 7 8 1500000005\n/\n0\n" in lines
        tar = session.capture()
    assert len(tar) == 512 + 1024
    (root,) = members(tar)
    assert (root.mode, root.uid, root.gid, root.mtime) == (0o711, 7, 8, MTIME + 5)


def test_two_guests_differ_in_boot_id_and_randomness(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    seen: list[bytes] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with start(tmp_path / name, layers=[base]) as guest:
            session = guest.session
            request = configuration(1)
            session.send(commands.hello(), commands.configure(request))
            session.expect(Configured)
            boot_id = session.shell(1, "cat /proc/sys/kernel/random/boot_id").strip()
            assert boot_id.replace(b"-", b"").decode() == request.boot_id.hex()
            seen += [boot_id, session.shell(2, "head -c 16 /dev/urandom")]
    assert len(set(seen)) == 4


CHANGES = r"""
rm /etc/old; rm -r /srv; mkdir /srv; echo new > /srv/n; mv /bin/seq /bin/seq2
mkdir -p '/deep/a b/ü'; echo text > '/deep/a b/ü/f'; ln '/deep/a b/ü/f' /deep/hard
ln -s ../nowhere /deep/sym; mkfifo -m 604 /deep/fifo; mknod /deep/null c 1 3; mknod /deep/blk b 8 1
dd if=/dev/urandom of=/deep/random bs=100000 count=30 2>/dev/null
dd if=/dev/zero of=/deep/sparse bs=1 count=1 seek=5000000 2>/dev/null
printf '\377\376' > /deep/$(printf '\377')bad; touch /deep/$(printf 'n%.0s' $(seq2 200))
chown 12:34 /deep/fifo; chmod 4750 /deep/random; chown 3000000000:5 /deep/sym -h
touch -d '1980-01-02 03:04:05' '/deep/a b/ü/f'
"""
SURVEY = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /dev \) -prune -o -print | sort |
while read -r f; do stat -c '%A %u %g %Y %h %t:%T %N' "$f"; done
find /deep /srv /etc -type f | sort | while read -r f; do sha256sum "$f"; done
"""


def test_changes_captured_and_stacked_again_are_the_same_tree(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with start(tmp_path / "first", layers=[base]) as guest:
        session = guest.session
        configure(session, [base])
        session.shell(1, CHANGES)
        surveyed = session.shell(2, SURVEY)
        tar = session.capture()
    delta = squashfs(tmp_path / "delta.sqfs", tar)
    with start(tmp_path / "second", layers=[base, delta]) as guest:
        session = guest.session
        configure(session, [base, delta])
        again = session.shell(1, SURVEY)
    assert surveyed.count(b"\n") > 40
    assert again.splitlines() == surveyed.splitlines()


def test_a_large_change_passes_the_port_unharmed(start: Boot, base: Path, tmp_path: Path) -> None:
    with start(tmp_path, layers=[base]) as guest:
        session = guest.session
        configure(session, [base])
        digest = session.shell(
            1, "head -c 20000000 /dev/urandom > /big; sha256sum /big; head -c 70001 /big > /b2"
        ).split()[0]
        tar = session.capture()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        big, small = archive.extractfile("big"), archive.extractfile("b2")
        assert big is not None
        assert small is not None
        data = big.read()
        assert small.read() == data[:70_001]
    assert hashlib.sha256(data).hexdigest().encode() == digest


def test_mount_points_exist_whatever_the_image_has_in_their_place(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    layers = [
        base,
        layer(
            tmp_path / "1.sqfs", directory("./"), file("proc"), directory("sys"), directory("dev")
        ),
        layer(
            tmp_path / "2.sqfs",
            directory("./"),
            whiteout("sys"),
            (entry("dev", tarfile.SYMTYPE, linkname="/bin"), b""),
        ),
    ]
    with start(tmp_path, layers=layers) as guest:
        session = guest.session
        configure(session, layers)
        assert (
            session.shell(1, "cat /proc/1/comm; test -c /dev/null; test -d /sys/block") == b"init\n"
        )
        assert len(session.capture()) == 512 + 1024


def test_as_many_layers_as_allowed_are_stacked(start: Boot, base: Path, tmp_path: Path) -> None:
    many = [
        layer(tmp_path / f"{i}.sqfs", directory("./"), file(f"layer{i}"), file("last", b"%d" % i))
        for i in range(commands.MAX_LAYERS - 1)
    ]
    layers = [base, *many]
    with start(tmp_path, layers=layers) as guest:
        session = guest.session
        configure(session, layers)
        output = session.shell(1, "ls / | grep -c layer; cat /last")
        assert output == b"%d\n%d" % (len(many), len(many) - 1)
        assert len(session.capture()) == 512 + 1024


def test_a_prepared_guest_takes_its_layers_and_another_scratch_disk(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    with start(tmp_path, layers=[base]) as guest:
        session = guest.session
        prepare = commands.prepare(
            layers_disk=PciAddress(slot=LAYERS_SLOT), scratch_disk=PciAddress(slot=SCRATCH_SLOT)
        )
        session.send(commands.rehearse(configuration(1)))
        assert session.expect(GuestError).code is GuestErrorCode.STATE, "not before PREPARE"
        session.send(prepare)
        session.expect(Prepared)
        assert session.hello().state is AgentState.BLANK
        session.send(commands.rehearse(replace(configuration(1), other_scratch=True)))
        assert session.expect(GuestError).code is GuestErrorCode.STATE, "only with its own disk"
        session.send(prepare)
        assert session.expect(GuestError).code is GuestErrorCode.STATE
        session.send(commands.configure(replace(configuration(1), other_scratch=True)))
        session.expect(Configured)
        assert session.shell(1, "echo here >/made; cat /made") == b"here\n"
        assert [member.name for member in members(session.capture())] == [".", "made"]


def test_a_layer_count_beyond_the_disk_fails_and_says_so(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    with start(tmp_path, layers=[base]) as guest:
        session = guest.session
        session.send(commands.configure(configuration(2)))
        error = session.expect(GuestError)
        assert error.code is GuestErrorCode.MOUNT
        assert "layer 1" in error.message
        assert session.hello().state is AgentState.FAILED
        session.send(commands.capture(1 << 20))
        assert session.expect(GuestError).code is GuestErrorCode.STATE


def test_a_host_may_leave_and_another_come(start: Boot, base: Path, tmp_path: Path) -> None:
    with start(tmp_path, layers=[base]) as guest:
        first = guest.session
        configure(first, [base])
        first.spawn(1, "/bin/cat", stdin_open=True)
        first.expect(Spawned)
        first.send(commands.hello()[:5])  # half a frame: the next host must not inherit it
        first.__exit__(None, None, None)
        time.sleep(0.3)
        with guest.connect() as second:
            assert second.hello().state is AgentState.CONFIGURED
            second.send(commands.stdin(1, b"still here"))
            assert second.expect(Output).data == b"still here"
            second.send(commands.signal(1, 9))
            second.expect(Signalled)
            assert second.run(2, "/bin/true").code == 0
            assert len(second.capture()) == 512 + 1024


def test_a_full_scratch_disk_is_the_command_s_and_the_file_s_error(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    with start(tmp_path, layers=[base], scratch_bytes=32 << 20) as guest:
        session = guest.session
        configure(session, [base])
        exited = session.run(1, "/bin/dd", "if=/dev/zero", "of=/fill", "bs=1M", "count=100")
        assert exited.code == 1
        session.send(
            commands.file_begin(path=b"/f", uid=0, gid=0, mode=0o644, size=65_536),
            commands.file_data(bytes(65_536)),
            commands.file_end(),
        )
        assert session.expect(GuestError).errno == 28
        session.shell(2, "rm /fill; test ! -e /f")
        assert [member.name for member in members(session.capture())] == ["."]


HOG = "dd if=/dev/zero of=/dev/null bs=200M count=1"  # of 256 MiB in all; 64 are not for commands
FILL = "dd if=/dev/zero of=/dev/shm/x bs=1M count=90"
SMALLER_HOG = "dd if=/dev/zero of=/dev/null bs=100M count=1"


def test_a_process_that_memory_ran_out_for_is_killed_and_says_so(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    with start(tmp_path, layers=[base]) as guest:
        session = guest.session
        configure(session, [base])
        ended = [
            session.run(1, "/bin/sh", "-c", f"echo kept >/kept; exec {HOG}"),
            session.run(2, "/bin/sh", "-c", f"{HOG}; echo $?"),
            session.run(3, "/bin/sh", "-c", f"{FILL}; {SMALLER_HOG}; echo $?; rm /dev/shm/x"),
            session.run(4, "/bin/sh", "-c", f"{SMALLER_HOG}; kill -9 $$"),
        ]
        assert [(one.code, one.signal, one.oom_killed) for one in ended] == [
            (-1, 9, True),
            (0, -1, True),
            (0, -1, True),
            (-1, 9, False),
        ]
        assert [session.output(spid) for spid in (2, 3)] == [b"137\n", b"137\n"]
        assert [member.name for member in members(session.capture())] == [".", "kept"]


def test_memory_that_runs_out_is_told_of_the_process_that_was_killed_for_it(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    with start(tmp_path, layers=[base]) as guest:
        session = guest.session
        configure(session, [base])
        session.spawn(1, "/bin/sh", "-c", f"echo up; while :; do {SMALLER_HOG}; done")
        session.expect(Output)
        hog = session.run(2, "/bin/sh", "-c", f"exec {HOG}")
        bystander = session.run(3, "/bin/true")
        assert (hog.signal, hog.oom_killed, bystander.oom_killed) == (9, True, False)


def test_a_fork_bomb_ends_at_its_timeout_with_output_and_files(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    bomb = "echo begun; echo kept >/kept; bomb() { bomb | bomb & }; bomb; sleep 600"
    with start(tmp_path, layers=[base]) as guest:
        session = guest.session
        configure(session, [base])
        exited = session.run(1, "/bin/sh", "-c", bomb, timeout_ms=5_000)
        assert (exited.code, exited.signal, exited.timed_out) == (-1, 9, True)
        assert session.output(1).startswith(b"begun\n")
        assert [member.name for member in members(session.capture())] == [".", "kept"]


def test_more_processes_than_memory_is_for_are_refused_to_whoever_makes_them(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    many = "i=0; while [ $i -lt 5000 ]; do sleep 600 & i=$((i+1)); done; echo all"
    with start(tmp_path, layers=[base]) as guest:
        session = guest.session
        configure(session, [base])
        allowed = int(session.shell(1, "cat /sys/fs/cgroup/pids.max"))
        assert 256 <= allowed < 5000
        exited = session.run(2, "/bin/sh", "-c", many)
        assert (exited.code, exited.oom_killed) == (2, False)
        assert b"can't fork" in session.output(2, Stream.STDERR)
        session.spawn(3, "/bin/sleep", "600")  # in the place of the shell
        session.expect(Spawned)
        refused = session.refused(4, "/bin/true")
        assert (refused.stage, refused.errno) == (SpawnStage.FORK, errno.EAGAIN)
        assert [member.name for member in members(session.capture())] == ["."]


def test_a_command_sees_its_limits_and_cannot_make_groups(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    with start(tmp_path, layers=[base]) as guest:
        session = guest.session
        configure(session, [base])
        group, limit, swap, made = session.shell(
            1,
            "cat /proc/self/cgroup; cd /sys/fs/cgroup; cat memory.max memory.swap.max;"
            "mkdir mine 2>/dev/null || echo refused",
        ).splitlines()
        assert (group, swap, made) == (b"0::/1", b"0", b"refused")
        assert 128 << 20 < int(limit) < 192 << 20
        script = "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/[0-9]*"
        for spid in (2, 3):  # the first one's group stays, the others' end with them
            assert session.shell(spid, script).decode() == (
                f"0::/{spid}\n/sys/fs/cgroup/1\n/sys/fs/cgroup/{spid}\n"
            )


OURS = {
    "hosts": b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    b"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.1.1\tbox\n",
    "hostname": b"box\n",
    "resolv.conf": b"# This guest has no network.\nnameserver 127.0.0.1\n",
}
SHOW_ETC = "cd /etc && stat -c '%a %u %g %Y' . && for f in *; do echo \"[$f]\"; cat $f; done"


def etc_of(session: Session, layers: Sequence[Path]) -> tuple[bytes, dict[str, bytes]]:
    """What stat says of /etc, and its files."""
    session.send(commands.configure(configuration(len(layers), "box")))
    session.expect(Configured)
    of_etc, *files = session.shell(1, SHOW_ETC).split(b"[")
    contents = [one.split(b"]\n", 1) for one in files]
    return of_etc, {name.decode(): content for name, content in contents}


def test_what_the_image_has_not_in_etc_is_there_and_in_no_layer(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    with start(tmp_path, layers=[base]) as guest:
        of_etc, files = etc_of(guest.session, [base])
        assert of_etc == b"755 0 0 %d\n" % MTIME
        assert files == {"old": b"old", **OURS}
        assert len(guest.session.capture()) == 512 + 1024


def test_empty_files_of_the_image_are_filled_and_others_stay(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    top = layer(
        tmp_path / "top.sqfs",
        directory("./"),
        directory("etc", mode=0o751, uid=7, gid=8, pax_headers={f"{XATTR}user.mine": "kept"}),
        file("etc/hosts", b"1.2.3.4 mine\n"),
        file("etc/hostname"),
        whiteout("etc/resolv.conf"),
    )
    with start(tmp_path, layers=[base, top]) as guest:
        of_etc, files = etc_of(guest.session, [base, top])
        assert of_etc == b"751 7 8 %d\n" % MTIME
        assert files == {"old": b"old", **OURS, "hosts": b"1.2.3.4 mine\n"}
        # What a command writes there is a change as any other, and /etc is the image's still.
        guest.session.shell(
            2, "echo 5.6.7.8 more >>/etc/hosts; echo n >/etc/n; mv /etc/n /etc/hostname"
        )
        changed = {member.name: member for member in members(guest.session.capture())}
    assert list(changed) == [".", "etc", "etc/hostname", "etc/hosts"]
    etc = changed["etc"]
    assert (etc.mode, etc.uid, etc.gid) == (0o751, 7, 8)
    assert etc.pax_headers[f"{XATTR}user.mine"] == "kept"


@pytest.mark.parametrize(
    "etc",
    [
        pytest.param([whiteout("etc")], id="removed"),
        pytest.param([(entry("etc", tarfile.SYMTYPE, linkname="/nowhere"), b"")], id="a link"),
        pytest.param([file("etc", b"text")], id="a file"),
        pytest.param(
            [
                directory("etc"),
                (entry("etc/hosts", tarfile.SYMTYPE, linkname="/nowhere"), b""),
                directory("etc/hostname"),
                (entry("etc/resolv.conf", tarfile.FIFOTYPE), b""),
            ],
            id="odd files",
        ),
    ],
)
def test_whatever_etc_is_it_breaks_no_run_and_nothing_is_captured(
    start: Boot, base: Path, tmp_path: Path, etc: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    top = layer(tmp_path / "top.sqfs", directory("./"), *etc)
    with start(tmp_path, layers=[base, top]) as guest:
        configure(guest.session, [base, top])
        kinds = guest.session.shell(1, "cd /; stat -c '%n %F' etc etc/[hr]* 2>/dev/null; true")
        assert len(guest.session.capture()) == 512 + 1024
    regular = {b"etc/%s regular file" % name.encode() for name in OURS}
    found = set(kinds.splitlines())
    first = etc[0][0]
    if first.ischr():
        assert found == {b"etc directory", *regular}
    elif first.isdir():
        assert found == {
            b"etc directory",
            b"etc/hosts symbolic link",
            b"etc/hostname directory",
            b"etc/resolv.conf fifo",
        }
    else:
        assert found == {b"etc symbolic link" if first.issym() else b"etc regular file"}


PASSWD = (
    "short:x:5:5\n:::::::\nnot:x:05x:5::/wrong:\nmany:x:5:5::/first:/bin/sh:\n"
    "user:x:1000:1000:A User:/home/user:/bin/sh\nuser2:x:1000:1000::/second:\n"
    "none:x:6:6:::\nlong:x:7:7::/" + "x" * 5000 + ":\nlast:x:8:8::/last:"
)


def test_home_is_what_the_image_s_passwd_says_whatever_that_is(
    start: Boot, base: Path, tmp_path: Path
) -> None:
    top = layer(
        tmp_path / "top.sqfs",
        directory("./"),
        directory("etc"),
        file("etc/passwd", PASSWD.encode()),
    )
    with start(tmp_path, layers=[base, top]) as guest:
        session = guest.session
        configure(session, [base, top])
        spids = itertools.count(1)

        def home(uid: int) -> bytes:
            spid = next(spids)
            session.run(spid, "/bin/sh", "-c", "echo $HOME", uid=uid)
            return session.output(spid).rstrip(b"\n")

        found = {uid: home(uid) for uid in (0, 5, 6, 7, 8, 1000, 4_000_000_000)}
        assert found == {
            0: b"/",
            5: b"/first",
            6: b"/",
            7: b"/",
            8: b"/last",
            1000: b"/home/user",
            4_000_000_000: b"/",
        }
        for odd in ("mkfifo passwd", "mkdir passwd", "ln -s passwd passwd", "ln -s /dev/zero passwd"):
            session.shell(next(spids), f"cd /etc; rm -rf passwd; {odd}")
            assert home(1000) == b"/"
        session.shell(next(spids), "cd /etc; rm passwd; echo 'u:x:1000:1::/new:' >p; ln -s /etc/p passwd")
        assert home(1000) == b"/new"


def test_shutdown_ends_the_machine(start: Boot, base: Path, tmp_path: Path) -> None:
    with start(tmp_path, layers=[base]) as guest:
        guest.session.hello()
        guest.session.send(commands.shutdown())
        assert guest.process.wait(PATIENCE_S) == 0


def test_a_kernel_panic_ends_the_machine(start: Boot, base: Path, tmp_path: Path) -> None:
    with start(tmp_path, layers=[base]) as guest:
        configure(guest.session, [base])
        guest.session.spawn(1, "/bin/sh", "-c", "echo c > /proc/sysrq-trigger")
        assert guest.process.wait(PATIENCE_S) == 0
        assert "panic" in guest.console().lower()
