"""Reads that wait for one another: a store in memory whose queries end when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from contree.projections.together import Together


class Store:
    """Values by key; each query sees the store as of its beginning and waits to be let go."""

    def __init__(self, **values: int) -> None:
        self.values = dict(values)
        self.asked: list[list[str]] = []
        self.begun = asyncio.Semaphore(0)
        self._go = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def read(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.asked.append(sorted(keys))
        found = {key: self.values[key] for key in keys if key in self.values}
        error = self.error
        self.begun.release()
        await self._go.acquire()
        if error is not None:
            raise error
        return found

    def go(self, queries: int = 1) -> None:
        for _ in range(queries):
            self._go.release()


def gets(reads: Together[str, int], *keys: str) -> list[asyncio.Task[int | None]]:
    return [asyncio.create_task(reads.get(key)) for key in keys]


async def test_one_alone_is_asked_for_at_once() -> None:
    store = Store(a=1)
    reads = Together(store.read)
    store.go(2)
    assert await reads.get("a") == 1
    assert await reads.get("b") is None
    assert store.asked == [["a"], ["b"]]


async def test_those_that_come_meanwhile_are_one_query_and_each_gets_its_own() -> None:
    store = Store(a=1, b=2, c=3)
    reads = Together(store.read)
    (first,) = gets(reads, "a")
    await store.begun.acquire()
    rest = gets(reads, "b", "c", "b", "none", "a")
    store.go(2)
    assert [await task for task in (first, *rest)] == [1, 2, 3, 2, None, 1]
    assert store.asked == [["a"], ["a", "b", "c", "none"]]
    store.go()
    assert await reads.get("c") == 3


async def test_none_is_answered_by_a_query_that_began_before_it_was_asked() -> None:
    """Else a token would work once more after its revocation had been acknowledged."""
    store = Store(token=1)
    reads = Together(store.read)
    (before,) = gets(reads, "token")
    await store.begun.acquire()
    store.values.clear()
    (after,) = gets(reads, "token")
    await asyncio.sleep(0)
    store.go(2)
    assert (await before, await after) == (1, None)


async def test_an_error_is_for_those_who_asked_in_that_query_only() -> None:
    store = Store(a=1, b=2)
    reads = Together(store.read)
    (first,) = gets(reads, "a")
    await store.begun.acquire()
    failing = gets(reads, "a", "b")
    await asyncio.sleep(0)
    store.error = OSError("away")
    store.go()
    assert await first == 1
    await store.begun.acquire()
    store.error = None
    (last,) = gets(reads, "b")
    await asyncio.sleep(0)
    store.go(2)
    for task in failing:
        with pytest.raises(OSError, match="away"):
            await task
    assert await last == 2


async def test_whoever_is_cancelled_is_left_out_and_the_others_are_answered() -> None:
    store = Store(a=1, b=2, c=3)
    reads = Together(store.read)
    (first,) = gets(reads, "a")
    await store.begun.acquire()
    second, third = gets(reads, "b", "c")
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    store.go()
    assert await third == 3
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    assert store.asked == [["a"], ["c"]]
