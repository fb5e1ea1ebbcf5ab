"""An agent that floods or garbles its channel, over real sockets and the real decoder, with no VM.

The operation is FAILED with the rule that was broken, and the worker goes on.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from contree.adapters.microvm.agent.channel import Deadlines
from contree.adapters.microvm.agent.commands import HostFrameType
from contree.adapters.microvm.agent.event_buffer import EVENT_BUFFER_BYTES_MAX
from contree.adapters.microvm.agent.guest import AgentGuest
from contree.adapters.microvm.agent.messages import GuestFrameType
from contree.app import run_instance
from contree.app.guest.microvm import GuestInfo, GuestSpec
from contree.app.reads import OperationRow
from contree.domain.operation import Operation, Status
from tests.fakes.microvm import FakeMicroVM
from tests.unit.adapters.microvm import scripted_agent as say
from tests.unit.adapters.microvm.scripted_agent import SLOW, ScriptedAgent
from tests.unit.app.world import PROJECT, World

INFO = GuestInfo(
    accelerator="none",
    kernel="0",
    machine="x86_64",
    boot_id=UUID(int=1),
    init_pid=1,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
)
OUTPUT_MAX = 100_000
Play = Callable[[ScriptedAgent], Awaitable[None]]


class ScriptedMicroVM:
    """The first guest's agent starts the command, then plays; later guests are the fake's."""

    def __init__(self, play: Play, deadlines: Deadlines = SLOW) -> None:
        self.agent: ScriptedAgent | None = None
        self._play = play
        self._deadlines = deadlines
        self._honest = FakeMicroVM()

    @asynccontextmanager
    async def start(self, spec: GuestSpec) -> AsyncIterator[object]:
        if self.agent is not None:
            async with self._honest.start(spec) as guest:
                yield guest
            return
        self.agent = agent = await ScriptedAgent.connected(INFO, self._deadlines)
        playing = asyncio.create_task(self._begin(agent))
        try:
            assert isinstance(agent.guest, AgentGuest)
            yield agent.guest
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            await agent.aclose()

    def keep_waiting(self, count: int, *, fill: bool) -> None:
        pass

    async def sweep(self) -> int:
        return 0

    async def _begin(self, agent: ScriptedAgent) -> None:
        kind, _ = await agent.hear()
        assert kind == HostFrameType.SPAWN
        await agent.say(say.spawned(1))
        with suppress(ConnectionError):  # the host hung up: what it should do
            await self._play(agent)


async def garble(agent: ScriptedAgent) -> None:
    await agent.say(say.output(1, b"so far so good\n"), b"\xff" * 8)


async def announce_too_much(agent: ScriptedAgent) -> None:
    await agent.say(struct.pack("<IHH", 2**31 - 1, GuestFrameType.OUTPUT, 0))


async def flood_with_output(agent: ScriptedAgent) -> None:
    while True:
        await agent.say(say.output(1, b"x" * 32_768))


async def flood_with_single_bytes(agent: ScriptedAgent) -> None:
    while True:
        await agent.say(say.output(1, b"x") * 4096)


async def flood_with_answers(agent: ScriptedAgent) -> None:
    while True:
        await agent.say(say.ready() * 1000)


async def flood_with_credit(agent: ScriptedAgent) -> None:
    while True:
        await agent.say(say.credit(1, 65_536))


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (garble, "is no GuestFrameType"),
        (announce_too_much, "allowed 65536"),
        (flood_with_output, "more STDOUT than its cap"),
        (flood_with_single_bytes, "more STDOUT than its cap"),
        (flood_with_answers, "nobody asked"),
        (flood_with_credit, "never sent"),
    ],
)
async def test_it_fails_its_operation_with_the_reason_and_the_worker_lives(
    play: Play, reason: str
) -> None:
    world = World()
    world.microvm = machines = ScriptedMicroVM(play)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "c", output_bytes_max=OUTPUT_MAX)
        after = await world.ran(base, "echo", "the worker lives")
    assert row.status is Status.FAILED
    assert row.error is not None
    assert "it broke the protocol" in row.error
    assert reason in row.error
    assert after.status is Status.SUCCESS
    assert machines.agent is not None
    # What it said before stays readable, in few entries, and no more of it than was allowed.
    entries = [e.entry for e in await world.journal.read(row.operation_id, limit=10**6)]
    shown = "".join(e.data["value"] for e in entries if e.type == "stdout")
    assert len(shown) <= OUTPUT_MAX < EVENT_BUFFER_BYTES_MAX
    if play is garble:
        assert shown in {"", "so far so good\n"}
    # So it does in the result, of a command that is known to have begun, with an end nobody knows.
    assert (row.outcome is not None) == ("spawn" in [e.type for e in entries])
    if row.outcome is not None:
        assert (row.outcome["exit_code"], row.outcome["signal"]) == (-1, -1)
        kept = await world.content.read_bytes(PROJECT, row.outcome["stdout"]["sha256"])
        assert kept.decode() == shown
    assert entries[0].type == "init"
    assert len(entries) < OUTPUT_MAX // 20


async def drip(agent: ScriptedAgent) -> None:
    """The command ends as it should; what it wrote never does."""
    await agent.say(say.exited(1))
    while (await agent.hear())[0] != HostFrameType.CAPTURE:
        pass
    while True:
        await agent.say_data(b"x")
        await asyncio.sleep(0.01)


async def after_drip(deadlines: Deadlines) -> OperationRow:
    """Run a command whose guest drips, and another after it; return how the first ended."""
    world = World()
    world.microvm = ScriptedMicroVM(drip, deadlines)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "c", timeout_s=1)
        after = await world.ran(base, "echo", "the worker lives")
    assert after.status is Status.SUCCESS
    operation = await world.log.load(Operation, row.operation_id)
    assert operation is not None
    assert operation.attempts == 1
    return row


async def test_a_guest_that_drips_its_delta_fails_its_operation_at_once() -> None:
    row = await after_drip(replace(SLOW, capture_grace_s=0.2, capture_bytes_per_s=1000))
    assert row.status is Status.FAILED
    assert row.error is not None
    assert "its capture is too slow" in row.error
    assert row.outcome is not None
    assert (row.outcome["exit_code"], row.outcome["pid"]) == (0, 77)


async def test_no_attempt_goes_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a guest thinks of that no single wait for it notices."""
    monkeypatch.setattr(run_instance, "OVERHEAD_MAX_S", 0.2)
    row = await after_drip(SLOW)
    assert row.status is Status.FAILED
    assert row.error == (
        "the run was given up after 1.2 s: its command had 1 s,"
        " and its guest did not come to an end"
    )
    assert row.outcome is not None
    assert row.outcome["exit_code"] == 0
