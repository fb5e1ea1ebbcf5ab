"""Rates told from readings, and from an agent whose clock the test keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.microvm.agent import guest_clock
from contree.adapters.microvm.agent.commands import HostFrameType
from contree.adapters.microvm.agent.guest_clock import TOLERANCE, Rate, Reading, clock_fault
from contree.app.guest.microvm import GuestInfo
from tests.unit.adapters.microvm import scripted_agent as say
from tests.unit.adapters.microvm.scripted_agent import ScriptedAgent

INFO = GuestInfo(
    accelerator="none",
    kernel="0",
    machine="x86_64",
    boot_id=UUID(int=1),
    init_pid=1,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
)
delays = st.floats(0, 100)


def reading(*, rate: float, asked_s: float, read_s: float, answered_s: float) -> Reading:
    return Reading(asked_s=asked_s, guest_s=rate * read_s, answered_s=answered_s)


def rate(true_rate: float, *, delay_s: float, between_s: float) -> Rate:
    """What is told when each question and each answer is so late."""
    first = reading(rate=true_rate, asked_s=0, read_s=delay_s, answered_s=2 * delay_s)
    at = 2 * delay_s + between_s
    last = reading(rate=true_rate, asked_s=at, read_s=at + delay_s, answered_s=at + 2 * delay_s)
    return Rate.between(first, last)


@given(st.tuples(delays, delays, delays, delays), st.floats(0.25, 10))
def test_no_delay_makes_a_right_clock_wrong(
    late: tuple[float, float, float, float], between_s: float
) -> None:
    first_read = late[0]
    first_answered = first_read + late[1]
    asked = first_answered + between_s
    last_read = asked + late[2]
    first = reading(rate=1, asked_s=0, read_s=first_read, answered_s=first_answered)
    last = reading(rate=1, asked_s=asked, read_s=last_read, answered_s=last_read + late[3])
    assert not Rate.between(first, last).wrong


@pytest.mark.parametrize("true_rate", [4.93, 1.1, 0.9, 0.2, 0.0])
def test_a_clock_that_is_wrong_is_told_from_quick_answers(true_rate: float) -> None:
    assert rate(true_rate, delay_s=0.005, between_s=0.25).wrong


@pytest.mark.parametrize("true_rate", [1 - TOLERANCE, 1.0, 1 + TOLERANCE])
def test_what_is_tolerated_is_not_wrong(true_rate: float) -> None:
    assert not rate(true_rate, delay_s=0, between_s=0.25).wrong


def test_time_brings_the_bounds_closer() -> None:
    assert not rate(1, delay_s=0.1, between_s=0.25).close
    assert rate(1, delay_s=0.1, between_s=25).close


@pytest.fixture
async def agent() -> AsyncIterator[ScriptedAgent]:
    agent = await ScriptedAgent.connected(INFO)
    yield agent
    await agent.aclose()


async def answer(agent: ScriptedAgent, true_rate: float) -> None:
    """Answer every HELLO by a clock that runs at `true_rate`."""
    began_s = time.monotonic()
    while True:
        kind, _ = await agent.hear()
        assert kind == HostFrameType.HELLO
        await agent.say(say.ready(uptime_us=int(true_rate * (time.monotonic() - began_s) * 1e6)))


@pytest.mark.parametrize(("true_rate", "wrong"), [(1.0, False), (4.93, True), (0.2, True)])
async def test_an_agent_s_clock_is_compared_with_ours(
    agent: ScriptedAgent, true_rate: float, wrong: bool
) -> None:
    answering = asyncio.create_task(answer(agent, true_rate))
    fault = await clock_fault(agent.channel)
    answering.cancel()
    assert (fault is not None) == wrong
    if fault is not None:
        assert fault.startswith("its clock runs ")


async def test_a_clock_whose_bounds_never_get_close_passes_in_the_end(
    agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_clock, "PAUSE_S", 0.01)
    monkeypatch.setattr(guest_clock, "LIMIT_S", 0.1)
    monkeypatch.setattr(guest_clock, "TOLERANCE", 0.0)  # nothing is as close as that
    answering = asyncio.create_task(answer(agent, 1.0))
    async with asyncio.timeout(60):
        assert await clock_fault(agent.channel) is None
    answering.cancel()
