"""Guests that wait, where making one is a function here."""

from __future__ import annotations

import asyncio

import pytest

from contree.adapters.microvm.warm_guests import AGE_MAX_S, RETRY_FIRST_S, WarmCounts, WarmGuests
from contree.domain.errors import GuestFailure, StorageFullError


class Guest:
    def __init__(self) -> None:
        self.why: str | None = None
        self.ended = 0

    def flaw(self) -> str | None:
        return self.why

    def end(self) -> None:
        self.ended += 1


class Making:
    """Makes guests, when it is allowed to; `under_way` is set while it has not made one."""

    def __init__(self) -> None:
        self.made: list[Guest] = []
        self.failure: Exception | None = None
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.under_way = asyncio.Event()

    async def __call__(self) -> Guest:
        self.under_way.set()
        await self.allowed.wait()
        self.under_way.clear()
        if self.failure is not None:
            raise self.failure
        self.made.append(Guest())
        return self.made[-1]


class Time:
    now = 0.0


@pytest.fixture
async def making() -> Making:
    return Making()


@pytest.fixture
async def pool(making: Making) -> WarmGuests[Guest]:
    return WarmGuests(making)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(WarmGuests, "_now", staticmethod(lambda: time.now))
    return time


async def filled(pool: WarmGuests[Guest], count: int) -> None:
    pool.want(count, fill=True)
    await pool.settled()


async def test_as_many_wait_as_are_wanted_and_the_oldest_is_taken_first(
    pool: WarmGuests[Guest], making: Making
) -> None:
    assert pool.take() is None
    await filled(pool, 3)
    assert len(pool.waiting) == 3
    assert [pool.take() for _ in range(4)] == [*making.made, None]
    assert not any(guest.ended for guest in making.made), "they are their runs' to end"
    assert pool.counts == WarmCounts(made=3, taken=3)


async def test_a_guest_that_was_taken_is_replaced_when_there_is_time(
    pool: WarmGuests[Guest], making: Making
) -> None:
    await filled(pool, 1)
    pool.take()
    pool.want(1, fill=False)
    await pool.settled()
    assert len(making.made) == 1
    await filled(pool, 1)
    assert pool.take() is making.made[1]


async def test_work_that_comes_stops_the_making(pool: WarmGuests[Guest], making: Making) -> None:
    making.allowed.clear()
    pool.want(2, fill=True)
    await making.under_way.wait()
    pool.want(2, fill=False)
    making.allowed.set()
    await filled(pool, 2)
    assert len(making.made) == 2, "what was stopped has made none"


async def test_surplus_ends_at_once_the_oldest_first(
    pool: WarmGuests[Guest], making: Making
) -> None:
    await filled(pool, 3)
    pool.want(1, fill=True)
    assert [guest.ended for guest in making.made] == [1, 1, 0]
    assert (len(pool.waiting), pool.counts.ended) == (1, 2)


@pytest.mark.parametrize("told", [True, False], ids=["at the next telling", "when it is needed"])
async def test_a_guest_that_died_is_counted_and_never_given_out(
    pool: WarmGuests[Guest], making: Making, caplog: pytest.LogCaptureFixture, told: bool
) -> None:
    await filled(pool, 2)
    making.made[0].why = "its QEMU was killed"
    if told:
        await filled(pool, 2)
        assert len(making.made) == 3
    assert pool.take() is making.made[1]
    assert (making.made[0].ended, pool.counts.flawed) == (1, 1)
    assert "its QEMU was killed" in caplog.text


async def test_a_guest_that_waited_too_long_is_replaced(
    pool: WarmGuests[Guest], making: Making, clock: Time
) -> None:
    await filled(pool, 1)
    clock.now = AGE_MAX_S
    await filled(pool, 1)
    assert len(making.made) == 1
    clock.now += 1
    await filled(pool, 1)
    assert (making.made[0].ended, len(making.made), pool.counts.ended) == (1, 2, 1)


async def test_after_a_failure_it_waits_longer_each_time_before_it_tries_again(
    pool: WarmGuests[Guest], making: Making, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [GuestFailure("no template"), StorageFullError("no template"), OSError("a bug")]
    for number, making.failure in enumerate(failures):
        wait_s = RETRY_FIRST_S * 2**number
        failed = pool.counts.failed
        await filled(pool, 1)
        assert pool.counts.failed == failed + 1
        clock.now += wait_s - 1
        await filled(pool, 1)
        assert pool.counts.failed == failed + 1
        clock.now += 1
    making.failure = None
    await filled(pool, 1)
    assert len(pool.waiting) == 1
    assert caplog.text.count("no guest to wait") == len(failures)


async def test_closing_ends_what_waits_and_what_is_being_made(
    pool: WarmGuests[Guest], making: Making
) -> None:
    await filled(pool, 1)
    making.allowed.clear()
    making.under_way.clear()
    pool.want(2, fill=True)
    await making.under_way.wait()
    await pool.aclose()
    assert (len(pool.waiting), making.made[0].ended) == (0, 1)
    assert len(making.made) == 1
