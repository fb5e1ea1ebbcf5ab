"""How much more memory a process came to need: what the kernel counted, not samples."""

from __future__ import annotations

from pathlib import Path

KIB_A_MIB = 1024
RESET_PEAK = "5"
"""Source: proc(5), /proc/pid/clear_refs."""


class PeakGrowth:
    """From its making on: `mib` is the peak resident size of `pid` above what it was then."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)
        self._before_kib = self._kib("VmRSS")

    @property
    def mib(self) -> float:
        return (self._kib("VmHWM") - self._before_kib) / KIB_A_MIB

    def _kib(self, name: str) -> int:
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            field, _, value = line.partition(":")
            if field == name:
                return int(value.split()[0])
        raise AssertionError(f"process {self._pid} has no {name}")
