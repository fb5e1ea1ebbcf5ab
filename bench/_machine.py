"""On what machine a bench ran: enough to tell two tables apart, nothing that names the host."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import libvirt

from contree.adapters.postgres.embedded import binaries
from contree.programs import QEMU

_VERSION = re.compile(r"\d+(?:\.\d+)+")


def machine() -> dict[str, Any]:
    """Return cores, memory (MiB), and the versions of what the numbers depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "memory_mib": int(_field("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": _version_in(platform.release()),
        "python": platform.python_version(),
        "qemu": _said([QEMU.path(), "--version"]),
        "libvirt": _libvirt_version(),
        "postgresql": _said([str(binaries() / "postgres"), "--version"]),
    }


def busy_share(*, over_s: float) -> float:
    """Return the share of all CPU time, 0..1, that was used in the next `over_s` seconds.

    Before we start anything this is what others use; a load average still remembers us.
    """
    busy, total = _cpu_ticks()
    time.sleep(over_s)
    busy_then, total_then = _cpu_ticks()
    return (busy_then - busy) / max(1, total_then - total)


def _cpu_ticks() -> tuple[int, int]:
    """Busy and all ticks of all CPUs; proc(5), /proc/stat: idle is the 4th, iowait the 5th."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0 unknown"


def _said(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return _version_in(done.stdout)


def _version_in(text: str) -> str:
    found = _VERSION.search(text)
    return found[0] if found else "unknown"


def _libvirt_version() -> str:
    number = libvirt.getVersion()
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
