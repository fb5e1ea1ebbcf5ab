"""Which accelerator guests run under: `kvm` where a probe guest boots under it, else `tcg`.

An existing /dev/kvm proves nothing: there are machines on which ordinary kernels hang under it. A
probe costs seconds where KVM is broken, so its verdict is kept, for this host CPU, host kernel,
QEMU and access to /dev/kvm. That KVM works is believed as long as these are what they were. That
it does not may have been a busy moment, so it is believed for an hour, and not at all by somebody
who demands KVM. It boots nothing itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import textwrap
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from contree.domain.errors import GuestFailure

AUTO, KVM, TCG = "auto", "kvm", "tcg"
CHOICES = (AUTO, KVM, TCG)
PROBE_TIMEOUT_S = 10.0
"""A guest is ready in about a second under a KVM that works."""
PROBE_TIMEOUT_DEMANDED_S = 30.0
"""Where somebody says that KVM works, the host may be slow, or itself a guest."""
REASON_SHOWN_CHARS = 100
"""Of why KVM does not work, in a warning; all of it is at DEBUG and in `doctor`."""
DISBELIEF_S = 3600.0
KVM_DEVICE = Path("/dev/kvm")

NO_BOUNDARY = (
    "correct but many times slower, and no boundary that QEMU supports for isolation: for hostile "
    "code use KVM (SECURITY.md)"
)

_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FIELDS = ("vendor_id", "model name", "stepping", "microcode", "flags")
_MACHINE_ID = Path("/etc/machine-id")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether KVM works on `host` (see `host_key`), if not, why; and when that was found out.

    asked_s  seconds since the epoch
    """

    host: str
    kvm_works: bool
    reason: str
    asked_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The accelerator, and why it is not KVM ("" when it is)."""

    accelerator: str
    why_not_kvm: str = ""


class KvmProbe:
    """How KVM is asked about.

    boot       boots a guest under KVM that must be ready in so many seconds, or raises GuestFailure
    timeout_s  None: PROBE_TIMEOUT_S, or PROBE_TIMEOUT_DEMANDED_S when KVM is demanded
    record     the file of the last verdict
    """

    def __init__(
        self,
        boot: Callable[[float], Awaitable[None]],
        *,
        record: Path,
        timeout_s: float | None = None,
        device: Path = KVM_DEVICE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._boot = boot
        self._record = record
        self._timeout_s = timeout_s
        self._device = device
        self._clock = clock

    async def choose(self, wanted: str, *, host: str, anew: bool = False) -> Choice:
        """Return the accelerator for the setting `wanted`, one of CHOICES.

        anew    do not believe the record; what is found out replaces it

        Raises GuestFailure when `kvm` is demanded and does not work.
        """
        if wanted not in CHOICES:
            raise ValueError(f"accelerator={wanted!r}, allowed {', '.join(CHOICES)}")
        if wanted == TCG:
            log.warning("guests run under TCG, as the setting accelerator says: %s", NO_BOUNDARY)
            return Choice(accelerator=TCG, why_not_kvm="the setting accelerator is tcg")
        verdict = None if anew else self._believed(wanted, host)
        asked_now = verdict is None
        if verdict is None:
            verdict = await self._judge(wanted, host)
            self._record.parent.mkdir(parents=True, exist_ok=True)
            self._record.write_text(json.dumps(asdict(verdict)))
        if verdict.kvm_works:
            return Choice(accelerator=KVM)
        if wanted == KVM:
            raise GuestFailure(
                f"accelerator=kvm was asked for, but KVM does not work here: {verdict.reason}. "
                f"Make {self._device} usable, or set kvm_probe_timeout higher for a slow host, or "
                "set accelerator to tcg or auto"
            )
        log.warning(
            "KVM does not work here (%s): guests run under TCG, %s; "
            "`contreed doctor` says what to do",
            textwrap.shorten(verdict.reason, REASON_SHOWN_CHARS, placeholder=" ..."),
            NO_BOUNDARY,
        )
        log.debug(
            "why KVM does not work: %s; %s in %s",
            verdict.reason,
            "kept" if asked_now else "found earlier, it is asked again an hour later; kept",
            self._record,
        )
        return Choice(accelerator=TCG, why_not_kvm=verdict.reason)

    def _believed(self, wanted: str, host: str) -> Verdict | None:
        """Return the recorded verdict if it is still to be believed."""
        try:
            verdict = Verdict(**json.loads(self._record.read_text()))
        except (OSError, ValueError, TypeError):
            return None  # none yet, or another version's
        if verdict.host != host:
            return None
        is_fresh = 0 <= self._clock() - verdict.asked_s < DISBELIEF_S
        return verdict if verdict.kvm_works or (wanted == AUTO and is_fresh) else None

    async def _judge(self, wanted: str, host: str) -> Verdict:
        reason = ""
        if not self._device.exists():
            reason = f"there is no {self._device}"
        elif not os.access(self._device, os.R_OK | os.W_OK):
            reason = f"{self._device} is not ours to use"
        else:
            default_s = PROBE_TIMEOUT_DEMANDED_S if wanted == KVM else PROBE_TIMEOUT_S
            within_s = self._timeout_s or default_s
            log.info("booting a probe guest under KVM (at most %g s)", within_s)
            try:
                await self._boot(within_s)
            except GuestFailure as failure:
                reason = " ".join(str(failure).split())
        return Verdict(host=host, kvm_works=not reason, reason=reason, asked_s=self._clock())


def host_key(emulator: Path) -> str:
    """Return a digest of all that a verdict depends on; the emulator counts as its file does.

    A saved guest depends on it too: another machine, or kernel build, may count time otherwise.
    """
    qemu, system = emulator.stat(), os.uname()
    facts = [
        system.release,
        system.version,
        system.machine,
        _machine_id(),
        f"{emulator} {qemu.st_size} {qemu.st_mtime_ns}",
        f"kvm={os.access(KVM_DEVICE, os.R_OK | os.W_OK)}",
        *_cpu_facts(),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _machine_id() -> str:
    """machine-id(5); "" where there is none."""
    try:
        return _MACHINE_ID.read_text(errors="replace").strip()
    except OSError:
        return ""


def _cpu_facts() -> list[str]:
    """The first CPU's identity; /proc/cpuinfo repeats it for each."""
    first = _CPU_INFO.read_text(errors="replace").split("\n\n", 1)[0]
    return [line for line in first.splitlines() if line.split("\t")[0].strip() in _CPU_FIELDS]
