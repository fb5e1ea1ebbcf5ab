"""Reads of single rows by key: those that are asked for while one is under way are the next query.

    idle --get--> one query for that key alone --some wait--> one query for all that wait --> ...

Nothing is remembered: each answer comes from a query that began after it was asked for, so it shows
everything that was committed before, as a query of its own would. What is saved under load is the
round trip, which costs far more than the row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Together(Generic[K, V]):
    """Wraps `read`, which returns the rows of some keys, each by its key; keys without one lack."""

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._read = read
        self._waiting: list[tuple[K, asyncio.Future[V | None]]] = []
        self._reading = False
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """Return the row of `key`, None when there is none. Raises what `read` raises."""
        if self._reading:
            answer: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
            self._waiting.append((key, answer))
            return await answer
        self._reading = True
        try:
            return (await self._read([key])).get(key)
        finally:
            if self._waiting:
                self._task = asyncio.create_task(self._answer_all())
            else:
                self._reading = False

    async def _answer_all(self) -> None:
        """Answer until nobody waits."""
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                await self._answer(waiting)
        finally:
            self._reading = False

    async def _answer(self, waiting: Sequence[tuple[K, asyncio.Future[V | None]]]) -> None:
        wanted = [(key, answer) for key, answer in waiting if not answer.done()]
        try:
            found = await self._read(list({key: None for key, _ in wanted})) if wanted else {}
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            for _, answer in wanted:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for key, answer in wanted:
                if not answer.done():
                    answer.set_result(found.get(key))
        finally:
            for _, answer in wanted:
                answer.cancel()  # of no effect but when the event loop ends
