"""The GuestControl contract, on the fake and on PostgreSQL with sender and receiver apart.

On PostgreSQL the two ends are two adapters with a listening connection each, as in two processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from contree.adapters.postgres.guest_control import PostgresGuestControl
from contree.adapters.postgres.listener import PostgresListener
from contree.app.guest.guest_control import (
    ANSWER_TEXT_CHARS_MAX,
    COMMANDS_WAITING_MAX,
    Action,
    ControlAnswer,
    GuestCommand,
    GuestControl,
    Inbox,
    Outcome,
    ReceivedCommand,
)
from tests.fakes.clock import FakeIds
from tests.fakes.guest_control import FakeGuestControl

IDS = FakeIds(space=11)
WAIT_S = 60.0
BRIEF_S = 1.5
"""Of a sender that gives up: long enough that its command is received before, by all means."""
DONE = ControlAnswer(outcome=Outcome.DONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The API's end and the worker's."""

    api: GuestControl
    worker: GuestControl


@pytest_asyncio.fixture(loop_scope="session")
async def listeners() -> AsyncIterator[list[PostgresListener]]:
    """Listeners that are closed after the test."""
    made: list[PostgresListener] = []
    yield made
    for listener in made:
        await listener.aclose()


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def ends(request: pytest.FixtureRequest, listeners: list[PostgresListener]) -> Ends:
    if request.param == "fake":
        control = FakeGuestControl()
        return Ends(api=control, worker=control)
    pool: asyncpg.Pool = request.getfixturevalue("postgres_pool")
    dsn: str = request.getfixturevalue("postgres_dsn")
    listeners += [PostgresListener(dsn), PostgresListener(dsn)]
    api, worker = (PostgresGuestControl(pool, listener) for listener in listeners)
    return Ends(api=api, worker=worker)


def a_command(
    operation_id: UUID, *, spid: int = 1, payload: bytes = b"", action: Action = Action.STDIN
) -> GuestCommand:
    return GuestCommand(
        operation_id=operation_id,
        action=action,
        spid=spid,
        facts={"close": False, "text": "\u00fc"},
        payload=payload,
        actor="token-1",
        request_id="request-1",
    )


async def serve(inbox: Inbox, into: list[tuple[ReceivedCommand, bytes]]) -> None:
    """Answer everything with DONE, the command's spid given back."""
    async for received in inbox.commands():
        payload = await inbox.start(received.number)
        assert payload is not None
        into.append((received, payload))
        answer = ControlAnswer(outcome=Outcome.DONE, spid=received.command.spid)
        await inbox.answer(received.number, answer)


async def first(inbox: Inbox) -> ReceivedCommand:
    async with asyncio.timeout(WAIT_S):
        async for received in inbox.commands():
            return received
    raise AssertionError("commands do not end")


async def test_a_command_arrives_as_it_was_sent_and_its_answer_comes_back(ends: Ends) -> None:
    operation_id = IDS.new_id()
    command = a_command(operation_id, spid=7, payload=bytes(range(256)) * 4096)
    got: list[tuple[ReceivedCommand, bytes]] = []
    async with ends.worker.open(operation_id) as inbox:
        serving = asyncio.create_task(serve(inbox, got))
        answer = await ends.api.send(command, within_s=WAIT_S)
        serving.cancel()
    assert answer == ControlAnswer(outcome=Outcome.DONE, spid=7)
    [(received, payload)] = got
    assert payload == command.payload
    assert received.command.facts == command.facts
    assert (received.command.actor, received.command.request_id) == ("token-1", "request-1")
    assert received.command.action is Action.STDIN


async def test_what_one_sender_sends_arrives_in_its_order_among_many_others(ends: Ends) -> None:
    mine, other = IDS.new_id(), IDS.new_id()
    got: list[tuple[ReceivedCommand, bytes]] = []
    others: list[tuple[ReceivedCommand, bytes]] = []

    async def send_all(operation_id: UUID, spid: int) -> None:
        for n in range(20):
            command = a_command(operation_id, spid=spid, payload=b"%d" % n)
            assert (await ends.api.send(command, within_s=WAIT_S)).outcome is Outcome.DONE

    async with ends.worker.open(mine) as inbox, ends.worker.open(other) as second:
        serving = [
            asyncio.create_task(serve(inbox, got)),
            asyncio.create_task(serve(second, others)),
        ]
        await asyncio.gather(*(send_all(mine, spid) for spid in (1, 2, 3)), send_all(other, 9))
        for task in serving:
            task.cancel()
    for spid in (1, 2, 3):
        sent = [payload for received, payload in got if received.command.spid == spid]
        assert sent == [b"%d" % n for n in range(20)]
    assert [received.number for received, _ in got] == sorted(r.number for r, _ in got)
    assert {received.command.spid for received, _ in others} == {9}


async def test_nobody_takes_commands_before_the_inbox_is_open(ends: Ends) -> None:
    answer = await ends.api.send(a_command(IDS.new_id()), within_s=WAIT_S)
    assert answer.outcome is Outcome.NOT_READY


async def test_closing_answers_what_waits_and_refuses_what_comes(ends: Ends) -> None:
    operation_id = IDS.new_id()
    async with ends.worker.open(operation_id) as inbox:
        sending = [
            asyncio.create_task(ends.api.send(a_command(operation_id), within_s=WAIT_S))
            for _ in range(3)
        ]
        await first(inbox)
    answers = await asyncio.gather(*sending)
    assert {answer.outcome for answer in answers} == {Outcome.ENDED}
    late = await ends.api.send(a_command(operation_id), within_s=WAIT_S)
    assert late.outcome is Outcome.ENDED


async def test_another_attempt_opens_the_inbox_again_and_empty(ends: Ends) -> None:
    operation_id = IDS.new_id()
    async with ends.worker.open(operation_id):
        pass
    got: list[tuple[ReceivedCommand, bytes]] = []
    async with ends.worker.open(operation_id) as inbox:
        serving = asyncio.create_task(serve(inbox, got))
        answer = await ends.api.send(a_command(operation_id), within_s=WAIT_S)
        serving.cancel()
    assert answer.outcome is Outcome.DONE
    assert len(got) == 1


async def test_a_command_that_is_not_begun_in_time_is_taken_back(ends: Ends) -> None:
    operation_id = IDS.new_id()
    async with ends.worker.open(operation_id) as inbox:
        answer = await ends.api.send(a_command(operation_id), within_s=0.2)
        assert answer.outcome is Outcome.BUSY
        sending = asyncio.create_task(ends.api.send(a_command(operation_id), within_s=WAIT_S))
        received = await first(inbox)  # the one that was taken back is not among them
        assert await inbox.start(received.number) == b""
        await inbox.answer(received.number, DONE)
        assert await sending == DONE


async def test_a_command_taken_back_after_it_was_received_cannot_be_begun(ends: Ends) -> None:
    operation_id = IDS.new_id()
    async with ends.worker.open(operation_id) as inbox:
        sending = asyncio.create_task(ends.api.send(a_command(operation_id), within_s=BRIEF_S))
        received = await first(inbox)
        assert (await sending).outcome is Outcome.BUSY
        assert await inbox.start(received.number) is None
        await inbox.answer(received.number, DONE)  # and nobody hears this


async def test_the_outcome_of_one_that_was_begun_and_not_answered_is_unknown(ends: Ends) -> None:
    operation_id = IDS.new_id()
    async with ends.worker.open(operation_id) as inbox:
        sending = asyncio.create_task(ends.api.send(a_command(operation_id), within_s=BRIEF_S))
        received = await first(inbox)
        assert await inbox.start(received.number) == b""
        assert (await sending).outcome is Outcome.UNKNOWN


async def test_a_full_inbox_makes_senders_wait_and_never_grows(ends: Ends) -> None:
    operation_id = IDS.new_id()
    async with ends.worker.open(operation_id) as inbox:
        sending = [
            asyncio.create_task(ends.api.send(a_command(operation_id, spid=n), within_s=WAIT_S))
            for n in range(COMMANDS_WAITING_MAX)
        ]
        commands = inbox.commands()
        numbers = [(await anext(commands)).number for _ in range(COMMANDS_WAITING_MAX)]
        refused = await ends.api.send(a_command(operation_id), within_s=0.3)
        assert refused.outcome is Outcome.BUSY
        waiting = asyncio.create_task(ends.api.send(a_command(operation_id), within_s=WAIT_S))
        for number in numbers:
            assert await inbox.start(number) is not None
            await inbox.answer(number, DONE)
        assert await asyncio.gather(*sending) == [DONE] * COMMANDS_WAITING_MAX
        async with asyncio.timeout(WAIT_S):
            late = await anext(commands)
        await inbox.start(late.number)
        await inbox.answer(late.number, DONE)
        assert await waiting == DONE


async def test_a_refusal_carries_its_reason_whole_up_to_a_bound(ends: Ends) -> None:
    operation_id = IDS.new_id()
    async with ends.worker.open(operation_id) as inbox:
        sending = asyncio.create_task(ends.api.send(a_command(operation_id), within_s=WAIT_S))
        received = await first(inbox)
        text = "\u20ac'\"\\" * (ANSWER_TEXT_CHARS_MAX // 4)
        refusal = ControlAnswer(outcome=Outcome.REFUSED, text=text, field="command")
        await inbox.start(received.number)
        await inbox.answer(received.number, refusal)
        assert await sending == refusal


async def test_a_sender_that_is_gone_leaves_nothing_to_be_done(ends: Ends) -> None:
    operation_id = IDS.new_id()
    async with ends.worker.open(operation_id) as inbox:
        sending = asyncio.create_task(ends.api.send(a_command(operation_id), within_s=WAIT_S))
        received = await first(inbox)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert await inbox.start(received.number) is None
