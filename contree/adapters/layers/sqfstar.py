"""One run of `sqfstar`: a tar goes in through a pipe, a squashfs comes out.

It is fed tars of our own making only (`squashfs`, `live_squashfs`). Its complaints go to memory:
nobody reads a pipe while the other one is being filled, and a file could not be written when there
is no room.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from contree.adapters.layers.entry import TarEntry
from contree.adapters.layers.squashfs_root import owner_mark, set_root
from contree.adapters.layers.staging import start_writeback
from contree.adapters.layers.tar_writer import header
from contree.domain.errors import LayerRefused, StorageFullError

# -noI keeps inodes uncompressed, so that the root's can be patched; they are small beside data.
# -no-duplicates: looking for equal files compares each with all of its size, which a guest can make
# a matter of hours; 20,000 files of 2 KB take 3.2 s with it and 0.13 s without (4.5.1, measured).
_COMMAND: Final = (
    "sqfstar", "-comp", "lz4", "-noI", "-no-duplicates", "-mkfs-time", "0", "-mem", "64M",
    "-no-progress", "-quiet",
)  # fmt: skip
_PIPE_BYTES: Final = 1024**2
"""What an unprivileged process may ask for; the default makes both sides wait 16 times as often."""

_WRITEBACK_BYTES: Final = 16 * 1024**2
_COMPLAINT_BYTES_MAX: Final = 2000


class Sqfstar:
    """Makes `target`, whose root directory will be `root`'s. Leaving the context ends it.

    After `finish` the file is whole, though not fsynced. Once it has given up, writing does
    nothing: `finish` says why.
    """

    def __init__(self, target: Path, root: TarEntry) -> None:
        self._target = target
        self._root = root
        self._given_up = False
        self._written = 0
        self._complaints = os.memfd_create("sqfstar")
        try:
            self._process = subprocess.Popen(
                [*_COMMAND, str(target)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                bufsize=0,
            )
        except BaseException:
            os.close(self._complaints)
            raise
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()
        with suppress(OSError):  # only faster
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        if (root.uid, root.gid) != (os.getuid(), os.getgid()):
            self.write(header(owner_mark(root), charset=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it unless it is finished."""
        with self._process:
            self._process.kill()
        os.close(self._complaints)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Feed it a piece of the tar."""
        with memoryview(data) as view:
            done = 0
            while done < len(view) and not self._given_up:
                with view[done:] as rest:
                    try:
                        done += os.write(self._pipe, rest)
                    except BrokenPipeError:
                        self._given_up = True
        self._count(len(data))

    def send(self, source: int, offset: int, length: int) -> None:
        """Feed it bytes of a file. Raises EOFError when that is too short."""
        self._count(length)
        while length and not self._given_up:
            try:
                sent = os.sendfile(self._pipe, source, offset, length)
            except BrokenPipeError:
                self._given_up = True
                return
            if not sent:
                raise EOFError("a layer's tar is shorter than its index says")
            offset += sent
            length -= sent

    def finish(self) -> None:
        """Wait for the whole squashfs. Raises StorageFullError, LayerRefused if it gave up."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait() == 0:
            set_root(self._target, self._root)
            return
        complaint = os.pread(self._complaints, _COMPLAINT_BYTES_MAX, 0)
        text = complaint.decode(errors="replace").strip()
        # It reports a failed write only in words.
        if "No space left" in text or "Disk quota" in text:
            raise StorageFullError("the layer store has no room; nothing was kept")
        raise LayerRefused(f"the layer cannot be made mountable: {text}")

    def _count(self, size_bytes: int) -> None:
        """Have what it wrote so far go to disk now and then, not all of it at the end."""
        before, self._written = self._written, self._written + size_bytes
        if before // _WRITEBACK_BYTES != self._written // _WRITEBACK_BYTES:
            with suppress(FileNotFoundError):
                written = os.open(self._target, os.O_RDONLY)
                try:
                    start_writeback(written)
                finally:
                    os.close(written)
