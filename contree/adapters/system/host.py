"""The machine as Linux shows it (app.host): /proc, and the control groups that we are in.

Sources: proc(5) for MemAvailable; the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst
for limits, which hold for a group and everything below it: so every group on our way up counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KIB: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Where one version of control groups keeps what we ask of memory."""

    limit: str
    used: str
    reclaimable: str  # the line of memory.stat


_V1: Final = _Files(
    limit="memory.limit_in_bytes", used="memory.usage_in_bytes", reclaimable="total_inactive_file"
)
_V2: Final = _Files(limit="memory.max", used="memory.current", reclaimable="inactive_file")


class LinuxHost:
    """`proc` and `cgroups` are where those file systems are mounted."""

    def __init__(
        self, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
    ) -> None:
        self._proc = proc
        # A process may be moved to another group while it runs; nobody does that to a service.
        self._unified = list(self._groups("", cgroups))
        self._cpu = list(self._groups("cpu", cgroups / "cpu"))
        self._memory = list(self._groups("memory", cgroups / "memory"))

    def cores(self) -> float:
        cores = float(len(os.sched_getaffinity(0)))
        for group in self._unified:
            words = _text(group / "cpu.max").split()
            if len(words) == 2 and words[0] != "max":  # noqa: PLR2004 - quota and period
                cores = min(cores, int(words[0]) / int(words[1]))
        for group in self._cpu:
            quota, period = (
                _number(group / "cpu.cfs_quota_us"),
                _number(group / "cpu.cfs_period_us"),
            )
            if quota is not None and period and quota > 0:
                cores = min(cores, quota / period)
        return cores

    def memory_available_bytes(self) -> int:
        available = self._of_the_machine()
        for group in self._unified:
            available = min(available, _left(group, _V2, available))
        for group in self._memory:
            available = min(available, _left(group, _V1, available))
        return max(0, available)

    def _of_the_machine(self) -> int:
        for line in (self._proc / "meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * _KIB
        raise RuntimeError("/proc/meminfo has no MemAvailable")

    def _groups(self, controller: str, root: Path) -> Iterator[Path]:
        """Yield our group under `root` and those it is in, up; `controller` "" is version 2."""
        for line in _text(self._proc / "self" / "cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller not in controllers.split(","):
                continue
            group = root / path.strip("/")
            # In a container the path may be the host's, which is not to be seen from inside.
            while not group.is_dir() and group != root:
                group = group.parent
            yield group
            while group != root:
                group = group.parent
                yield group


def _left(group: Path, files: _Files, otherwise: int) -> int:
    """Return what the group may still take; `otherwise` when that is more, or there is no limit."""
    limit, used = _number(group / files.limit), _number(group / files.used)
    if limit is None or used is None or limit - used >= otherwise:
        return otherwise
    return limit - used + _statistic(group / "memory.stat", files.reclaimable)


def _statistic(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        words = line.split()
        if words[0] == name:
            return int(words[1])
    return 0


def _number(path: Path) -> int | None:
    """Return the number in a file; None when there is no such file, or it says "max"."""
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
