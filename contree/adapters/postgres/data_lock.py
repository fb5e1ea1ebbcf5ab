"""The lock on a data directory: held as long as any process of its server lives.

Linux only: it builds on flock(2) locks belonging to the open file, which child processes inherit.
A lock file that nobody holds means nothing; it is never removed.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class DataLock:
    """One lock file; the last of us and our children to close it, or to end, releases it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def take(self) -> bool:
        """Try to take it."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def fileno(self) -> int:
        assert self._fd is not None
        return self._fd

    def release(self) -> None:
        """Close our copy; children that inherited it still hold it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
