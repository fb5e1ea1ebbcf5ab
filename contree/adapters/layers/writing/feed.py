"""An asynchronous stream read by blocking code in a thread, in bounded memory.

Parsing, hashing and writing a layer is CPU and disk work: it runs in a thread (hashing, inflating,
SQLite and file I/O release the interpreter's lock), while the loop passes chunks over in pieces of
about a MiB, so that a hand-over costs little per byte. At most QUEUE_PIECES pieces are held.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Final, TypeVar

PIECE_BYTES: Final = 1024 * 1024
QUEUE_PIECES: Final = 4
_END: Final = b""

T = TypeVar("T")


class FeedAborted(Exception):  # noqa: N818 - the work's signal to stop, never shown
    """Raised in the thread when the stream failed or the caller gave up."""


class Feed:
    """The thread's end: a `tar_reader.ByteSource`. Raises `over_limit()` past `bytes_max`."""

    def __init__(self, *, bytes_max: int, over_limit: Callable[[], Exception]) -> None:
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._piece = b""
        self._at = 0
        self._ended = False
        self._left = bytes_max
        self._over_limit = over_limit
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(QUEUE_PIECES)
        self._aborted = False
        self._unread = False

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; empty only at the end. Called in the thread."""
        if self._aborted:
            raise FeedAborted
        if self._at == len(self._piece) and not self._ended:
            self._next_piece()
        begin, self._at = self._at, min(self._at + size, len(self._piece))
        # A slice of all of it is the piece itself: large contents are not copied.
        return self._piece[begin : self._at]

    def _next_piece(self) -> None:
        piece = self._pieces.get()
        self._loop.call_soon_threadsafe(self._room.release)
        if piece is None:
            raise FeedAborted
        self._ended = piece == _END
        self._left -= len(piece)
        if self._left < 0:
            raise self._over_limit()
        self._piece, self._at = piece, 0

    # -- the loop's end -----------------------------------------------------------------------

    async def put(self, piece: bytes) -> None:
        await self._room.acquire()
        if self._unread:
            self._room.release()  # let the next call through as well
        else:
            self._pieces.put(piece)

    def abort(self) -> None:
        self._aborted = True
        self._pieces.put(None)

    def wake(self) -> None:
        """Let `put` go on without waiting, since nobody will read any more."""
        self._unread = True
        self._room.release()


async def consume(
    chunks: AsyncIterator[bytes], feed: Feed, work: Callable[[Feed], T], *, executor: Executor
) -> T:
    """Run `work` in a thread over `chunks` and return its result.

    When the stream raises, its error is what the caller gets; when `work` raises, the stream is
    closed unread. Cancelling waits until the thread has stopped.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, work, feed)
    future.add_done_callback(lambda _: feed.wake())
    try:
        batch: list[bytes] = []
        held = 0
        async for chunk in chunks:
            batch.append(chunk)
            held += len(chunk)
            if held >= PIECE_BYTES:
                await feed.put(b"".join(batch))
                batch, held = [], 0
            if future.done():
                break
        if held:
            await feed.put(b"".join(batch))
        await feed.put(_END)
        return await asyncio.shield(future)
    except BaseException:
        if not future.done():
            feed.abort()
            await _stopped(future)
        raise
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def _stopped(future: asyncio.Future[T]) -> None:
    """Wait for the thread, whatever it ends with, even while we are being cancelled."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # taken note of: the stream's own error is the one to report
