"""A new file that is hashed while it is written, and is nearly on disk when it is whole."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Final, Self

from contree.adapters.layers.staging import start_writeback

_ASIDE_BYTES: Final = 256 * 1024
"""A piece as large is worth another thread; hashing lets go of the interpreter's lock."""

_WRITEBACK_BYTES: Final = 16 * 1024**2


class HashedFile:
    """Writes to `stream`; large pieces are hashed in a thread of its own meanwhile.

    The pieces must not change. Leaving the context ends the thread.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="layer-hash")  # starts none yet
        self._hashing: Future[None] | None = None
        self.position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def write(self, data: bytes) -> None:
        self._wait()
        if len(data) >= _ASIDE_BYTES:
            self._hashing = self._threads.submit(self._digest.update, data)
        else:
            self._digest.update(data)
        self._stream.write(data)
        before, self.position = self.position, self.position + len(data)
        if before // _WRITEBACK_BYTES != self.position // _WRITEBACK_BYTES:
            start_writeback(self._stream.fileno())

    def hexdigest(self) -> str:
        self._wait()
        return self._digest.hexdigest()

    def _wait(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None
