"""What memory a process takes: its proportional set size, shared pages divided by their users."""

from __future__ import annotations

from pathlib import Path

KIB_A_MIB = 1024


def pss_mib(pid: int) -> float:
    """Return the proportional set size, MiB; 0 for a process that has gone.

    Guest RAM counts: it is shared memory of one user. Source: proc(5), smaps_rollup.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) / KIB_A_MIB
    return 0.0
