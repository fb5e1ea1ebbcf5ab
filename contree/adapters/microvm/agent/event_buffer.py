"""What processes did, between the channel that reads it and the one consumer of `Guest.events`.

Bounded: when it is full the channel stops reading, the agent then stops reading its processes, and
they wait. It judges nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from contree.app.guest.microvm import Output, ProcessEvent
from contree.domain.errors import GuestFailure

EVENT_BUFFER_BYTES_MAX = 4 * 1024**2
_EVENT_OVERHEAD_BYTES = 512  # what an event costs beside its data


class EventBuffer:
    """A queue measured in bytes, with one reader."""

    def __init__(self) -> None:
        self._events: deque[ProcessEvent] = deque()
        self._size_bytes = 0
        self._changed = asyncio.Condition()
        self._dropping = False
        self._ended = False
        self._failure: GuestFailure | None = None
        self.full = False  # the channel waits for the consumer: the guest is not to blame

    async def put(self, event: ProcessEvent) -> None:
        """Append, waiting for room. After `drop_overflow`, output without room is lost."""
        cost = _cost(event)
        async with self._changed:
            if self._size_bytes + cost > EVENT_BUFFER_BYTES_MAX:
                self.full = True
                try:
                    await self._changed.wait_for(self._may_go_on)
                finally:
                    self.full = False
                if self._dropping and isinstance(event, Output) and not self._has_room():
                    return
            self._events.append(event)
            self._size_bytes += cost
            self._changed.notify_all()

    async def drop_overflow(self) -> None:
        """From now on nobody need read for the channel to go on: a capture must not hang on it."""
        async with self._changed:
            self._dropping = True
            self._changed.notify_all()

    async def end(self, failure: GuestFailure | None) -> None:
        """Let the consumer read what is there, then stop, or raise `failure`."""
        async with self._changed:
            if not self._ended:
                self._ended = True
                self._failure = failure
            self._changed.notify_all()

    async def consume(self) -> AsyncIterator[ProcessEvent]:
        """Yield events in order until `end`. Raises GuestFailure."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._events) or self._ended)
                if not self._events:
                    break
                event = self._events.popleft()
                self._size_bytes -= _cost(event)
                self._changed.notify_all()
            yield event
        if self._failure is not None:
            raise self._failure

    def _has_room(self) -> bool:
        return self._size_bytes < EVENT_BUFFER_BYTES_MAX

    def _may_go_on(self) -> bool:
        return self._has_room() or self._dropping or self._ended


def _cost(event: ProcessEvent) -> int:
    return _EVENT_OVERHEAD_BYTES + (len(event.data) if isinstance(event, Output) else 0)
