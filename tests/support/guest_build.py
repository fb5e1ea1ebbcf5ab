"""The guest agent, built by its own Makefile: by one test process at a time."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

GUEST_DIR = Path(__file__).parents[2] / "guest"


def make_guest(*targets: str) -> subprocess.CompletedProcess[str]:
    """Run `make -C guest TARGETS`; whether it went well is the caller's to look at.

    Two processes of a test run share the build folder, and a program that one of them is linking
    cannot be run by the other.
    """
    with (GUEST_DIR / "Makefile").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return subprocess.run(
            ["make", "-s", "-C", str(GUEST_DIR), *targets],
            check=False,
            capture_output=True,
            text=True,
        )
