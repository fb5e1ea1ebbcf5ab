"""What the processes on one data directory agree on, by files there: who leads, and a position."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

ASK_AGAIN_S: Final = 2.0


class FileMark:
    """Implements app.content.drop_layers.HostMark."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> int | None:
        try:
            return int(self._path.read_text())
        except (FileNotFoundError, ValueError):  # cut off by a crash of the host: as if none
            return None

    def write(self, position: int) -> None:
        """By a rename: whoever is killed leaves the old one or the new one."""
        draft = self._path.with_suffix(".new")
        draft.write_text(f"{position}\n")
        draft.rename(self._path)


class HostLeadership:
    """Implements app.leadership.Leadership among the processes on `directory`: a lock (flock)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def was_led(self, name: str) -> bool:
        """Whether a process on this directory has ever led in `name`."""
        return self._path(name).exists()

    @contextlib.asynccontextmanager
    async def lead(self, name: str) -> AsyncIterator[None]:
        descriptor = os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _locked(descriptor):  # noqa: ASYNC110 - other processes tell nobody
                await asyncio.sleep(ASK_AGAIN_S)
            yield
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> Path:
        return self._directory / (re.sub(r"[^\w.-]", "-", name) + ".lock")


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
