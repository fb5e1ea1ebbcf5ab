"""What memory a process takes."""

from __future__ import annotations

from pathlib import Path

KIB_A_MIB = 1024


def pss_mib(pid: int) -> float:
    """Return the proportional set size, MiB; 0 for a process that has gone.

    Shared pages are divided by their users, so it also moves with what else runs on the machine.
    Guest RAM counts: it is shared memory of one user.
    """
    return _mib(pid, "Pss")


def own_mib(pid: int) -> float:
    """Return what the process has made itself, MiB: heaps and stacks, but no page of a file."""
    return _mib(pid, "Anonymous")


def _mib(pid: int, field: str) -> float:
    """Read a field of proc(5), smaps_rollup."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / KIB_A_MIB
    return 0.0
