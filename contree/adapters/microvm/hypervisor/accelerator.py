"""Which accelerator guests run under: `kvm` where a probe guest boots under it, else `tcg`.

An existing /dev/kvm proves nothing: there are machines on which ordinary kernels hang under it. A
probe costs seconds where KVM is broken, so its verdict is kept, for this host CPU, host kernel,
QEMU and access to /dev/kvm. It boots nothing itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from contree.domain.errors import GuestFailure

AUTO, KVM, TCG = "auto", "kvm", "tcg"
CHOICES = (AUTO, KVM, TCG)
PROBE_TIMEOUT_S = 10.0
"""A guest is ready in about a second under a KVM that works."""

_KVM_DEVICE = Path("/dev/kvm")
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FIELDS = ("vendor_id", "model name", "stepping", "microcode", "flags")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether KVM works on `host` (see `host_key`), and if not, why."""

    host: str
    kvm_works: bool
    reason: str


async def choose(
    wanted: str, *, record: Path, host: str, probe_kvm: Callable[[], Awaitable[None]], reprobe: bool
) -> str:
    """Return `kvm` or `tcg` for the setting `wanted`, one of CHOICES.

    probe_kvm   boots a guest under KVM; raises GuestFailure when it does not become ready
    record      file of the last verdict
    reprobe     ask again even if the record knows

    Raises GuestFailure when `kvm` is demanded and does not work.
    """
    if wanted not in CHOICES:
        raise ValueError(f"accelerator={wanted!r}, allowed {', '.join(CHOICES)}")
    if wanted == TCG:
        return TCG
    verdict = None if reprobe else _read(record, host)
    if verdict is None:
        verdict = await _judge(host, probe_kvm)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(asdict(verdict)))
    if verdict.kvm_works:
        return KVM
    if wanted == KVM:
        raise GuestFailure(
            f"accelerator=kvm was asked for, but KVM does not work here: {verdict.reason}. "
            "Set accelerator to tcg or auto, or make /dev/kvm usable"
        )
    log.warning(
        "KVM does not work here (%s): guests run under TCG, correct but many times slower",
        verdict.reason,
    )
    return TCG


def host_key(emulator: Path) -> str:
    """Return a digest of all that a verdict depends on; the emulator counts as its file does."""
    qemu = emulator.stat()
    facts = [
        os.uname().release,
        os.uname().machine,
        f"{emulator} {qemu.st_size} {qemu.st_mtime_ns}",
        f"kvm={os.access(_KVM_DEVICE, os.R_OK | os.W_OK)}",
        *_cpu_facts(),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


async def _judge(host: str, probe_kvm: Callable[[], Awaitable[None]]) -> Verdict:
    if not os.access(_KVM_DEVICE, os.R_OK | os.W_OK):
        reason = f"{_KVM_DEVICE} is absent or not ours to use"
        return Verdict(host=host, kvm_works=False, reason=reason)
    log.info("booting a probe guest under KVM (at most %g s)", PROBE_TIMEOUT_S)
    try:
        await probe_kvm()
    except GuestFailure as failure:
        return Verdict(host=host, kvm_works=False, reason=" ".join(str(failure).split()))
    return Verdict(host=host, kvm_works=True, reason="")


def _read(record: Path, host: str) -> Verdict | None:
    try:
        verdict = Verdict(**json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):
        return None  # none yet, or another version's
    return verdict if verdict.host == host else None


def _cpu_facts() -> list[str]:
    """The first CPU's identity; /proc/cpuinfo repeats it for each."""
    first = _CPU_INFO.read_text(errors="replace").split("\n\n", 1)[0]
    return [line for line in first.splitlines() if line.split("\t")[0].strip() in _CPU_FIELDS]
