"""AgentGuest over a socket pair whose other end says what no honest agent would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from contree.adapters.microvm.agent.channel import Deadlines
from contree.adapters.microvm.agent.commands import STDIN_WINDOW_BYTES, HostFrameType
from contree.adapters.microvm.agent.event_buffer import EVENT_BUFFER_BYTES_MAX
from contree.adapters.microvm.agent.process_events import COUNT_MAX
from contree.app.guest.microvm import Exited, GuestInfo, Output, ProcessSpec
from contree.domain.errors import GuestFailure, LayerRefused, NotFoundError
from tests.support.guest_files import put_file
from tests.unit.adapters.microvm import scripted_agent as say
from tests.unit.adapters.microvm.scripted_agent import FAST, SLOW, ScriptedAgent

INFO = GuestInfo(
    accelerator="none",
    kernel="0",
    machine="x86_64",
    boot_id=UUID(int=1),
    init_pid=1,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
)
SPEC = ProcessSpec(argv=("x",), env={}, stdin_open=True, output_bytes_max=100_000)


@pytest.fixture
async def agent() -> AsyncIterator[ScriptedAgent]:
    agent = await ScriptedAgent.connected(INFO)
    yield agent
    await agent.aclose()


@pytest.fixture
async def fast_agent() -> AsyncIterator[ScriptedAgent]:
    agent = await ScriptedAgent.connected(INFO, FAST)
    yield agent
    await agent.aclose()


@asynccontextmanager
async def scripted(deadlines: Deadlines) -> AsyncIterator[ScriptedAgent]:
    agent = await ScriptedAgent.connected(INFO, deadlines)
    try:
        yield agent
    finally:
        await agent.aclose()


async def started(agent: ScriptedAgent, spec: ProcessSpec = SPEC) -> None:
    """Process 1 runs."""
    spawning = asyncio.create_task(agent.guest.spawn(1, spec))
    assert (await agent.hear())[0] == HostFrameType.SPAWN
    await agent.say(say.spawned(1))
    assert await spawning == 77


async def lost(agent: ScriptedAgent) -> str:
    """Return why the events ended."""
    with pytest.raises(GuestFailure) as failure:
        async for _ in agent.guest.events():
            pass
    return str(failure.value)


@pytest.mark.parametrize(
    ("frames", "rule"),
    [
        ([say.output(2, b"x")], "which does not run"),
        ([say.exited(1), say.output(1, b"x")], "which does not run"),
        ([say.exited(1), say.exited(1)], "which does not run"),
        ([say.output(1, b"x" * 30_000)] * 4, "more STDOUT than its cap"),
        ([say.credit(1, 1)], "never sent"),
        ([say.spawned(1)], "nobody asked"),
        ([say.spawned(9)], "nobody asked"),
        ([say.captured(0)], "nobody asked"),
        ([say.ready()], "nobody asked"),
        ([say.error(HostFrameType.STDIN, 7, spid=1)] * 2, "never sent"),
        ([say.error(HostFrameType.SIGNAL, 3, spid=1)], "nobody asked"),
        ([say.error(HostFrameType.FILE_DATA, 1)], "ERROR about FILE_DATA"),
        ([say.error(0x7777, 1)], "0x7777"),
        ([b"\xff" * 8], "is no GuestFrameType"),
    ],
)
async def test_what_is_not_due_ends_the_guest(
    agent: ScriptedAgent, frames: list[bytes], rule: str
) -> None:
    await started(agent)
    await agent.say(*frames)
    reason = await lost(agent)
    assert reason.startswith("it broke the protocol: ")
    assert rule in reason


async def test_numbers_that_a_guest_claims_are_clamped(agent: ScriptedAgent) -> None:
    await started(agent)
    await agent.say(say.exited(1))
    event = await anext(agent.guest.events())
    assert isinstance(event, Exited)
    assert event.usage.sys_time_us == COUNT_MAX
    assert event.usage.user_time_us == 0


async def test_every_waiter_learns_that_the_guest_is_gone(agent: ScriptedAgent) -> None:
    await started(agent)
    waiting = [
        asyncio.create_task(agent.guest.signal(1, 9)),
        asyncio.create_task(agent.guest.spawn(2, SPEC)),
        asyncio.create_task(agent.guest.write_stdin(1, bytes(2 * STDIN_WINDOW_BYTES))),
        asyncio.create_task(anext(agent.guest.capture(bytes_max=1))),
    ]
    await agent.hear()
    agent.hang_up()
    assert "port closed" in await lost(agent)
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, GuestFailure)
    with pytest.raises(GuestFailure):
        await agent.guest.signal(1, 9)


async def test_stdin_keeps_to_the_window_and_goes_on_with_credit(agent: ScriptedAgent) -> None:
    await started(agent)
    data = bytes(STDIN_WINDOW_BYTES + 1000)
    writing = asyncio.create_task(agent.guest.write_stdin(1, data))
    kind, payload = await agent.hear()
    assert (kind, len(payload) - 4) == (HostFrameType.STDIN, STDIN_WINDOW_BYTES)
    await asyncio.sleep(0.02)
    assert not writing.done()
    await agent.say(say.credit(1, 600))
    assert len((await agent.hear())[1]) - 4 == 600
    await agent.say(say.credit(1, 5000))
    assert len((await agent.hear())[1]) - 4 == 400
    await writing


async def test_stdin_that_the_process_closed_stops_the_writer(agent: ScriptedAgent) -> None:
    await started(agent)
    writing = asyncio.create_task(agent.guest.write_stdin(1, bytes(3 * STDIN_WINDOW_BYTES)))
    await agent.hear()
    await agent.say(say.error(HostFrameType.STDIN, 7, spid=1))
    with pytest.raises(NotFoundError):
        await writing
    assert agent.channel.failure is None


async def test_stdin_that_crosses_an_exit_is_no_breach(agent: ScriptedAgent) -> None:
    await started(agent)
    await agent.guest.write_stdin(1, b"late")
    await agent.say(say.exited(1), say.error(HostFrameType.STDIN, 3, spid=1))
    await agent.say(say.error(HostFrameType.STDIN, 3, spid=1))  # one too many
    assert "never sent" in await lost(agent)


async def test_an_agent_that_does_not_answer_is_given_up(fast_agent: ScriptedAgent) -> None:
    with pytest.raises(GuestFailure, match="no answer to SPAWN"):
        await fast_agent.guest.spawn(1, SPEC)


async def test_an_agent_that_does_not_read_is_given_up(fast_agent: ScriptedAgent) -> None:
    async def content() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1024**2)

    with pytest.raises(GuestFailure, match="reading what we write"):
        await put_file(
            fast_agent.guest, "/big", content(), size_bytes=2**40, uid=0, gid=0, mode=0o644
        )


async def test_silence_is_broken_by_a_ping_or_ends_the_guest(fast_agent: ScriptedAgent) -> None:
    fast_agent.channel.watch()
    for _ in range(3):
        assert (await fast_agent.hear())[0] == HostFrameType.HELLO
        await fast_agent.say(say.ready())
    assert fast_agent.channel.failure is None
    assert "said nothing" in await lost(fast_agent)


async def test_our_own_slowness_is_not_held_against_the_guest(fast_agent: ScriptedAgent) -> None:
    spec = ProcessSpec(argv=("x",), env={}, output_bytes_max=2**40)
    await started(fast_agent, spec)
    fast_agent.channel.watch()
    chunk = say.output(1, bytes(32_000))

    async def flood() -> None:
        for _ in range(2 * EVENT_BUFFER_BYTES_MAX // 32_000):
            await fast_agent.say(chunk)
        await fast_agent.say(say.exited(1))

    flooding = asyncio.create_task(flood())
    while not fast_agent.guest.buffer.full:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    await asyncio.sleep(3 * FAST.silence_s)  # longer than a guest may be silent
    assert fast_agent.guest.buffer.full
    assert fast_agent.channel.failure is None
    received = 0
    async for event in fast_agent.guest.events():
        if isinstance(event, Output):
            received += len(event.data)
        else:
            break
    assert received == 2 * EVENT_BUFFER_BYTES_MAX // 32_000 * 32_000
    await flooding


async def capture(agent: ScriptedAgent, bytes_max: int = 10_000) -> asyncio.Task[bytes]:
    async def collect() -> bytes:
        return b"".join([chunk async for chunk in agent.guest.capture(bytes_max=bytes_max)])

    task = asyncio.create_task(collect())
    assert (await agent.hear())[0] == HostFrameType.CAPTURE
    return task


async def test_a_capture_is_whole_whichever_port_is_faster(agent: ScriptedAgent) -> None:
    capturing = await capture(agent)
    await agent.say(say.captured(6))
    await asyncio.sleep(0.01)
    await agent.say_data(b"abc")
    await agent.say_data(b"def")
    assert await capturing == b"abcdef"


async def test_a_capture_that_is_longer_than_said_is_a_failure(agent: ScriptedAgent) -> None:
    capturing = await capture(agent)
    await agent.say_data(b"abcdef")
    await asyncio.sleep(0.01)
    await agent.say(say.captured(5))
    with pytest.raises(GuestFailure, match="longer than it says"):
        await capturing


async def test_a_capture_that_stands_still_is_a_failure(fast_agent: ScriptedAgent) -> None:
    capturing = await capture(fast_agent)
    await fast_agent.say(say.captured(5))
    await fast_agent.say_data(b"abc")
    with pytest.raises(GuestFailure, match="stood still"):
        await capturing


def test_what_has_come_of_a_capture_gives_it_more_time() -> None:
    pace = Deadlines(capture_grace_s=60, capture_bytes_per_s=1000, capture_max_s=100)
    assert [pace.capture_s(size) for size in (0, 5000, 10**9)] == [60, 65, 100]


async def test_a_capture_that_drips_is_a_failure() -> None:
    """Byte by byte it never stands still: with 12 GiB allowed it would not end in our time."""
    pace = replace(SLOW, capture_grace_s=0.3, capture_bytes_per_s=1000)
    async with scripted(pace) as agent:
        capturing = await capture(agent)

        async def drip() -> None:
            with suppress(ConnectionError):
                while True:
                    await agent.say_data(b"x")
                    await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        with pytest.raises(GuestFailure, match=r"its capture is too slow: [0-9]+ bytes in"):
            await capturing
        dripping.cancel()
        await asyncio.wait({dripping})


async def test_a_capture_that_keeps_its_pace_goes_on_after_the_grace() -> None:
    pace = replace(SLOW, capture_grace_s=1, capture_bytes_per_s=30_000)
    async with scripted(pace) as agent:
        capturing = await capture(agent, bytes_max=10**9)
        until = time.monotonic() + 1.5 * pace.capture_grace_s
        sent_bytes = 0
        while time.monotonic() < until:
            await agent.say_data(bytes(30_000))
            sent_bytes += 30_000
            await asyncio.sleep(0.01)
        await agent.say(say.captured(sent_bytes))
        assert await capturing == bytes(sent_bytes)


async def test_our_own_slowness_is_not_held_against_a_capture() -> None:
    pace = replace(SLOW, capture_grace_s=1, capture_bytes_per_s=10**12)
    async with scripted(pace) as agent:
        chunks = agent.guest.capture(bytes_max=10**9)
        first = asyncio.create_task(anext(chunks))
        assert (await agent.hear())[0] == HostFrameType.CAPTURE
        await agent.say_data(b"1")
        got = [await first]
        for piece in (b"2", b"3"):
            await agent.say_data(piece)
            await asyncio.sleep(pace.capture_grace_s)  # our disk is slow, no thread is free
            got.append(await anext(chunks))
        await agent.say(say.captured(3))
        got += [chunk async for chunk in chunks]
        assert got == [b"1", b"2", b"3"]


async def test_a_capture_that_ignores_its_bound_is_refused(agent: ScriptedAgent) -> None:
    capturing = await capture(agent, bytes_max=5)
    await agent.say_data(b"abcdef")
    with pytest.raises(LayerRefused, match="more than 5 bytes"):
        await capturing


@pytest.mark.parametrize(
    ("code", "kind"), [(4, LayerRefused), (5, LayerRefused), (6, GuestFailure)]
)
async def test_a_capture_that_the_agent_gives_up_says_why(
    agent: ScriptedAgent, code: int, kind: type[Exception]
) -> None:
    capturing = await capture(agent)
    await agent.say_data(b"abc")
    await agent.say(say.error(HostFrameType.CAPTURE, code, message=b"name .wh.x"))
    with pytest.raises(kind, match=r"name \.wh\.x"):
        await capturing


async def test_output_that_nobody_reads_does_not_hold_up_a_capture(agent: ScriptedAgent) -> None:
    await started(agent, ProcessSpec(argv=("x",), env={}, output_bytes_max=2**40))
    chunk = say.output(1, bytes(32_000))

    async def flood() -> None:
        for _ in range(3 * EVENT_BUFFER_BYTES_MAX // 32_000):
            await agent.say(chunk)

    flooding = asyncio.create_task(flood())
    capturing = await capture(agent)
    await flooding
    await agent.say(say.exited(1), say.captured(0))
    assert await capturing == b""
    kept = 0
    async for event in agent.guest.events():
        if isinstance(event, Exited):
            break
        kept += 1
    assert kept * 32_000 <= EVENT_BUFFER_BYTES_MAX
