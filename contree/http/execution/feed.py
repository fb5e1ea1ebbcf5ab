"""One reader for each operation that is followed, however many follow it.

    feed        reads the journal once, as it grows; keeps the latest frames (WINDOW_BYTES_MAX)
    follower    takes frames from the window at its own pace; one that is behind the window reads
                the journal itself until it is inside

Nothing is queued for a follower: a slow one costs its position, a number. The feed lives while
somebody follows, and ends with the operation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from contree.app.clock import Clock
from contree.app.journal import Journal
from contree.app.operation_news import OperationNews
from contree.app.reads import OperationReads, OperationRow
from contree.domain.errors import ContreeError, UnavailableError
from contree.http.execution.event_frames import Frame, completion_frame, frame_of
from contree.http.execution.journal_reader import JournalReader, page_of

WINDOW_BYTES_MAX = 1024 * 1024
POLL_S = 5.0
"""How often a feed looks without being told: a net, the news come by themselves."""

TICK_S = 1.0
"""How often followers are woken for nothing, so that a thousand of them need no timer each. It is
also how long one that has hung up stays: nothing else tells its handler."""

log = logging.getLogger(__name__)


class Feed:
    """The frames of one operation from `after` on, as they come."""

    def __init__(
        self,
        row: OperationRow,
        *,
        after: int,
        journal: Journal,
        operations: OperationReads,
        clock: Clock,
    ) -> None:
        self.floor = after  # the window holds every frame with a higher number, up to `_last`
        self.ended = False
        self.failure: ContreeError | None = None
        self._row = row
        self._last = after
        self._journal = journal
        self._reader = JournalReader(journal, row.operation_id)
        self._operations = operations
        self._clock = clock
        self._numbers: list[int] = []
        self._frames: list[Frame] = []
        self._size_bytes = 0
        self._woken = asyncio.Event()
        self._changed = asyncio.Event()
        self._ticking: asyncio.TimerHandle

    def wake(self) -> None:
        """There may be something new."""
        self._woken.set()

    def close(self) -> None:
        """No more will come; followers find what is there, and `ended`."""
        self.ended = True
        self._tell()

    def frames_after(self, number: int) -> Sequence[Frame]:
        """Return the window's next page beyond `number`, which must not be below `floor`."""
        start = bisect_right(self._numbers, number)
        frames = (self._frames[at] for at in range(start, len(self._frames)))
        return page_of(frames, lambda frame: len(frame.data))

    async def changed(self) -> None:
        """Wait for the next change, or for nothing but that TICK_S has passed."""
        await self._changed.wait()

    async def read(self) -> None:
        """Read until the operation has ended. The task of the one reader."""
        self._tick()
        try:
            while True:
                self._woken.clear()
                if await self._read_what_is_there():
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._woken.wait()
        except ContreeError as error:
            self.failure = error
        except Exception:
            log.exception("the feed of operation %s hit a defect", self._row.operation_id)
            self.failure = UnavailableError("internal error, see the log of the API")
        finally:
            self._ticking.cancel()
            self.close()

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self._tell()

    async def _read_what_is_there(self) -> bool:
        """Read; say whether nothing more will come."""
        await self._read_frames()
        row = await self._operations.get(self._row.project_id, self._row.operation_id)
        if row is None:
            return True
        if not row.status.is_terminal:
            return False
        # What an operation wrote is all there once its row is terminal.
        await self._read_frames()
        number = await self._journal.next_number(row.operation_id)
        if number > self._last:
            self._add(completion_frame(row, number=number, now=self._clock.now()))
        return True

    async def _read_frames(self) -> None:
        more = True
        while more:
            entries, more = await self._reader.page(after=self._last)
            for entry in entries:
                self._add(frame_of(entry))
            if entries:
                self._tell()

    def _add(self, frame: Frame) -> None:
        if frame.type == "init":
            # Another attempt: what a lost one wrote is forgotten, here as in the journal.
            self._evict(len(self._frames))
        self._last = frame.number
        self._numbers.append(frame.number)
        self._frames.append(frame)
        self._size_bytes += len(frame.data)
        if self._size_bytes > WINDOW_BYTES_MAX:
            count = 0
            left = self._size_bytes
            while left > WINDOW_BYTES_MAX // 2 and count < len(self._frames) - 1:
                left -= len(self._frames[count].data)
                count += 1
            self._evict(count)

    def _evict(self, count: int) -> None:
        if count:
            self.floor = self._numbers[count - 1]
            self._size_bytes -= sum(len(frame.data) for frame in self._frames[:count])
            del self._numbers[:count]
            del self._frames[:count]

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass(slots=True, kw_only=True)
class _Followed:
    """A feed, the task that reads for it, and how many follow it."""

    feed: Feed
    reading: asyncio.Task[None]
    followers: int = 0


class Feeds:
    """The feeds of this process, by operation."""

    def __init__(
        self, *, journal: Journal, operations: OperationReads, news: OperationNews, clock: Clock
    ) -> None:
        self._journal = journal
        self._operations = operations
        self._news = news
        self._clock = clock
        self._feeds: dict[UUID, _Followed] = {}

    @asynccontextmanager
    async def follow(self, row: OperationRow, *, after: int) -> AsyncIterator[Feed]:
        """Give the operation's feed; the first follower starts it, the last one ends it."""
        # A client may name a number that was never given: the feed must not skip to it.
        start = min(after, await self._journal.next_number(row.operation_id) - 1)
        known = self._feeds.get(row.operation_id)
        if known is None or known.feed.ended:
            known = self._start(row, start)
        known.followers += 1
        try:
            yield known.feed
        finally:
            known.followers -= 1
            if not known.followers:
                known.reading.cancel()
                if self._feeds.get(row.operation_id) is known:
                    del self._feeds[row.operation_id]

    def close(self) -> None:
        """End all followers; they reconnect with the number that they saw last."""
        for followed in self._feeds.values():
            followed.feed.close()

    def _start(self, row: OperationRow, after: int) -> _Followed:
        feed = Feed(
            row,
            after=after,
            journal=self._journal,
            operations=self._operations,
            clock=self._clock,
        )
        unsubscribe = self._news.subscribe(row.operation_id, feed.wake)
        reading = asyncio.create_task(feed.read(), name=f"feed {row.operation_id}")
        reading.add_done_callback(lambda _: unsubscribe())
        self._feeds[row.operation_id] = followed = _Followed(feed=feed, reading=reading)
        return followed
