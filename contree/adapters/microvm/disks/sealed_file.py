"""A file in memory that nothing can change any more, and that a QEMU may still open by a path.

QEMU 7.2 opens the RAM of a guest for writing even when it maps it privately, so a template on disk
would be at the mercy of every QEMU that ever used it. Here the kernel stands between: a memfd with
F_SEAL_WRITE (memfd_create(2), fcntl(2)) takes no write and no shared writable mapping from anybody,
the owner and root included, while private mappings work.

The path is /proc/PID/fd/N of a holder: a child without capabilities. The kernel lets a process
through that link only if it has every capability of the link's owner (ptrace(2), access mode), and
a QEMU may have fewer than we. The holder ends when this process does, whatever ends it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from contree.domain.errors import GuestFailure
from contree.programs import CAT, SETPRIV

PAGE_BYTES = 4096
CHUNK_BYTES = 64 * PAGE_BYTES
HOLDER_END_TIMEOUT_S = 5.0

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_ZERO_PAGE = bytes(PAGE_BYTES)
_ZERO_CHUNK = bytes(CHUNK_BYTES)
_OFFSET = struct.Struct("<Q")
_WITHOUT_CAPABILITIES = ("--bounding-set=-all", "--inh-caps=-all")


class SealedFile:
    """`digest` is `copy_pages`' over what it holds."""

    def __init__(self, fd: int, digest: str) -> None:
        self.fd = fd
        self.digest = digest
        self._closing = threading.Lock()  # the number may be another file's after close

    @classmethod
    def copy_of(cls, source: Path) -> SealedFile:
        """Return a sealed copy of `source`. Blocks. Raises OSError."""
        fd = os.memfd_create(f"contree-{source.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o600)
            digest = copy_pages(source, fd)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, digest)

    def open_again(self) -> int:
        """Return a descriptor with an offset of its own, for reading; the caller closes it.

        Raises GuestFailure when this is closed.
        """
        with self._closing:
            if self.fd < 0:
                raise GuestFailure("the template was given up meanwhile", retryable=True)
            return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        with self._closing:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


class Holder:
    """A child through which processes of our user can open `file` by `path`.

    Blocks until it is ready. Raises GuestFailure when it does not start.
    """

    def __init__(self, file: SealedFile) -> None:
        command = holder_command()
        self._process = subprocess.Popen(
            command, pass_fds=(file.fd,), cwd="/", env={}, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is not meant for it
        )  # fmt: skip
        self.path = Path(f"/proc/{self._process.pid}/fd/{file.fd}")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
        if not self._process.stdout.read(1):  # it comes back once the capabilities are gone
            self.close()
            raise GuestFailure(f"`{' '.join(command)}` does not run here")

    def close(self) -> None:
        """End the child. What is mapped stays mapped."""
        self._process.kill()
        self._process.wait(HOLDER_END_TIMEOUT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def holder_command() -> Sequence[str]:
    """Return a command that waits for the end of its input, without capabilities.

    Raises UnavailableError when it is not installed.
    """
    cat = CAT.path()  # reads until its standard input ends, that is, until we do
    return (SETPRIV.path(), *_WITHOUT_CAPABILITIES, cat) if os.geteuid() == 0 else (cat,)


def copy_pages(source: Path, target_fd: int) -> str:
    """Copy `source` to the empty file `target_fd` without its zero pages; return a digest.

    The digest (`sha256:<hex>`) is over the size, then offset and bytes of each chunk that is not
    zero: it depends on content, not on where a filesystem has holes. Blocks. Raises OSError.
    """
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        os.ftruncate(target_fd, size_bytes)
        digest.update(_OFFSET.pack(size_bytes))
        at = _next_data(file.fileno(), 0, size_bytes)
        while at < size_bytes:
            chunk = os.pread(file.fileno(), CHUNK_BYTES, at)
            if chunk not in (_ZERO_CHUNK, _ZERO_CHUNK[: len(chunk)]):
                digest.update(_OFFSET.pack(at))
                digest.update(chunk)
                _write_pages(target_fd, chunk, at)
            at = _next_data(file.fileno(), at + CHUNK_BYTES, size_bytes)
    return f"sha256:{digest.hexdigest()}"


def _next_data(fd: int, at: int, size_bytes: int) -> int:
    """Return the start of the next chunk with data, from `at` on; `size_bytes` if none is left."""
    if at >= size_bytes:
        return size_bytes
    try:
        found = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:  # ENXIO: only a hole is left
        return size_bytes
    return found - found % CHUNK_BYTES


def _write_pages(fd: int, chunk: bytes, at: int) -> None:
    """Write the pages of `chunk` that are not zero, neighbours together."""
    begin: int | None = None
    for page in range(0, len(chunk) + PAGE_BYTES, PAGE_BYTES):
        content = chunk[page : page + PAGE_BYTES]
        if content and content != _ZERO_PAGE[: len(content)]:
            begin = page if begin is None else begin
        elif begin is not None:
            written = os.pwrite(fd, chunk[begin:page], at + begin)
            if written != len(chunk[begin:page]):
                raise OSError(0, "short write to the copy of a template")
            begin = None
