"""Guest control on PostgreSQL (app.guest.guest_control.GuestControl): rows carry, NOTIFY wakes.

    send     one statement: lock the operation's inbox, count who waits, insert, tell the worker
    start    mark the row, take its payload; from then on it cannot be taken back
    answer   delete the row, tell the answer in the notification itself

The lock on the inbox puts the commands of an operation in order, and makes closing it final.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.listener import PostgresListener
from contree.app.guest.guest_control import (
    ANSWER_TEXT_CHARS_MAX,
    COMMANDS_WAITING_MAX,
    Action,
    ControlAnswer,
    GuestCommand,
    Outcome,
    ReceivedCommand,
)
from contree.domain.errors import UnavailableError

COMMANDS_CHANNEL = "guest_commands"
ANSWERS_CHANNEL = "guest_answers"
POLL_S = 5.0
"""How often an inbox looks without being told."""

RETRY_S = 1.0
"""How often an inbox tries again while the database is away."""

ROOM_POLL_S = 0.05
ROOM_POLL_LAST_S = 1.0
"""How often a sender looks whether there is room again: less and less."""

ANSWER_GRACE_S = 0.5
"""For an answer that is on its way when the sender's time is up."""

CLOSE_TIMEOUT_S = 2.0
"""A guest that is to end does not wait longer for its inbox to be closed."""

SEND = """
WITH inbox AS (
    SELECT is_open FROM public.guest_inboxes WHERE operation_id = $1 FOR UPDATE
), waiting AS (
    SELECT count(*) AS rows FROM public.guest_commands WHERE operation_id = $1
), sent AS (
    INSERT INTO public.guest_commands
        (operation_id, action, spid, facts, actor, request_id, payload)
    SELECT $1, $2, $3, $4::json, $5, $6, $7 FROM inbox, waiting
    WHERE inbox.is_open AND waiting.rows < $8
    RETURNING number
)
SELECT (SELECT is_open FROM inbox) AS is_open, number,
       pg_notify('guest_commands', $1::text)
FROM (SELECT (SELECT number FROM sent) AS number) AS tried
"""
WAITING = """
SELECT number, action, spid, facts, actor, request_id FROM public.guest_commands
WHERE operation_id = $1 AND number > $2 ORDER BY number
"""
START = "UPDATE public.guest_commands SET started = true WHERE number = $1 RETURNING payload"
TAKE_BACK = "DELETE FROM public.guest_commands WHERE number = $1 AND NOT started RETURNING number"
EXISTS = "SELECT number FROM public.guest_commands WHERE number = ANY($1::bigint[])"
ANSWER = """
WITH gone AS (DELETE FROM public.guest_commands WHERE number = $1 RETURNING number)
SELECT pg_notify('guest_answers', $2) FROM gone
"""
OPEN = """
WITH old AS (DELETE FROM public.guest_commands WHERE operation_id = $1)
INSERT INTO public.guest_inboxes (operation_id, is_open) VALUES ($1, true)
ON CONFLICT (operation_id) DO UPDATE SET is_open = true
"""
REOPEN = """
INSERT INTO public.guest_inboxes (operation_id, is_open) VALUES ($1, true)
ON CONFLICT (operation_id) DO NOTHING
"""
CLOSE = "UPDATE public.guest_inboxes SET is_open = false WHERE operation_id = $1"
ANY_LEFT = "SELECT EXISTS (SELECT FROM public.guest_commands WHERE operation_id = $1)"
EMPTY = "DELETE FROM public.guest_commands WHERE operation_id = $1 RETURNING number"
TELL = "SELECT pg_notify('guest_answers', answer) FROM unnest($1::text[]) AS answer"

_log = logging.getLogger(__name__)


class PostgresGuestControl:
    """Both ends; a process uses one, or both. One listening connection serves them all."""

    def __init__(self, pool: asyncpg.Pool, listener: PostgresListener) -> None:
        self._pool = pool
        self._listener = listener
        self._answers: dict[int, asyncio.Future[ControlAnswer]] = {}
        self._early: dict[int, ControlAnswer] = {}
        self._sending = 0
        self._inboxes: dict[UUID, PostgresInbox] = {}
        self._checks: set[asyncio.Task[None]] = set()

    async def send(self, command: GuestCommand, *, within_s: float) -> ControlAnswer:
        self._listener.subscribe(ANSWERS_CHANNEL, self._hear_answer, self._missed_answers)
        await self._listener.listening(ANSWERS_CHANNEL)
        deadline = asyncio.get_running_loop().time() + within_s
        sent = await self._insert(command, deadline)
        if isinstance(sent, Outcome):
            return ControlAnswer(outcome=sent)
        number, answer = sent
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(answer)
        except TimeoutError:
            return await self._take_back(number, answer)
        except asyncio.CancelledError:
            with translated():  # the client is gone: what was not begun need not be
                await self._pool.fetchval(TAKE_BACK, number)
            raise
        finally:
            self._answers.pop(number, None)

    @asynccontextmanager
    async def open(self, operation_id: UUID) -> AsyncIterator[PostgresInbox]:
        self._listener.subscribe(COMMANDS_CHANNEL, self._hear_command, self._missed_commands)
        inbox = self._inboxes[operation_id] = PostgresInbox(self._pool, operation_id)
        try:
            with translated():
                await self._pool.execute(OPEN, operation_id)
            yield inbox
        finally:
            self._inboxes.pop(operation_id, None)
            await self._close(operation_id)

    async def _put(self, command: GuestCommand) -> Mapping[str, Any]:
        """Ask for a place in the inbox. Whoever is cancelled meanwhile leaves nothing in it."""
        putting = asyncio.create_task(
            self._pool.fetchrow(
                SEND,
                command.operation_id,
                command.action.value,
                command.spid,
                orjson.dumps(dict(command.facts)).decode(),
                command.actor,
                command.request_id,
                command.payload,
                COMMANDS_WAITING_MAX,
            )
        )
        with translated():
            try:
                row: Mapping[str, Any] = await asyncio.shield(putting)
            except asyncio.CancelledError:
                if (number := (await putting)["number"]) is not None:
                    await self._pool.fetchval(TAKE_BACK, number)
                raise
        return row

    async def _insert(
        self, command: GuestCommand, deadline: float
    ) -> tuple[int, asyncio.Future[ControlAnswer]] | Outcome:
        """Put the command into the inbox, waiting for room until `deadline`."""
        loop = asyncio.get_running_loop()
        pause_s = ROOM_POLL_S
        self._sending += 1
        try:
            while True:
                row = await self._put(command)
                if row["number"] is not None:
                    answer = loop.create_future()
                    # It may have been answered before we knew its number.
                    if (early := self._early.pop(row["number"], None)) is not None:
                        answer.set_result(early)
                    self._answers[row["number"]] = answer
                    return row["number"], answer
                if not row["is_open"]:
                    return Outcome.NOT_READY if row["is_open"] is None else Outcome.ENDED
                if loop.time() + ROOM_POLL_S >= deadline:
                    return Outcome.BUSY
                await asyncio.sleep(min(pause_s, deadline - loop.time()))
                pause_s = min(ROOM_POLL_LAST_S, pause_s * 1.5)
        finally:
            self._sending -= 1
            if not self._sending:
                self._early.clear()  # those were for other processes

    async def _take_back(self, number: int, answer: asyncio.Future[ControlAnswer]) -> ControlAnswer:
        with translated():
            if await self._pool.fetchval(TAKE_BACK, number) is not None:
                return ControlAnswer(outcome=Outcome.BUSY)
        try:
            async with asyncio.timeout(ANSWER_GRACE_S):
                return await asyncio.shield(answer)
        except TimeoutError:
            return ControlAnswer(outcome=Outcome.UNKNOWN)

    async def _close(self, operation_id: UUID) -> None:
        """Refuse what comes from now on, and answer what is left."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                with translated():
                    # Closed for all before it is looked into: nothing comes after that.
                    await self._pool.execute(CLOSE, operation_id)
                    if await self._pool.fetchval(ANY_LEFT, operation_id):
                        await self._refuse_rest(operation_id)
        except (TimeoutError, UnavailableError) as error:
            # Its end in the log removes it as well.
            _log.warning("inbox of operation %s not closed: %r", operation_id, error)

    async def _refuse_rest(self, operation_id: UUID) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(EMPTY, operation_id)
            ended = ControlAnswer(outcome=Outcome.ENDED)
            await connection.execute(TELL, [_answer_text(row["number"], ended) for row in rows])

    def _hear_answer(self, text: str) -> None:
        number, answer = _answer_from(text)
        future = self._answers.get(number)
        if future is not None and not future.done():
            future.set_result(answer)
        elif self._sending:
            self._early[number] = answer

    def _missed_answers(self) -> None:
        if self._answers:
            check = asyncio.create_task(self._check_answers())
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _check_answers(self) -> None:
        """An answer that was told while nobody listened is lost: nobody need wait for it."""
        numbers = list(self._answers)
        try:
            with translated():
                rows = await self._pool.fetch(EXISTS, numbers)
        except UnavailableError:
            return  # the next connection checks again
        for number in set(numbers) - {row["number"] for row in rows}:
            future = self._answers.get(number)
            if future is not None and not future.done():
                future.set_result(ControlAnswer(outcome=Outcome.UNKNOWN))

    def _hear_command(self, text: str) -> None:
        inbox = self._inboxes.get(UUID(text))
        if inbox is not None:
            inbox.wake()

    def _missed_commands(self) -> None:
        for inbox in self._inboxes.values():
            inbox.doubt()


class PostgresInbox:
    """The commands of one operation (app.guest.guest_control.Inbox)."""

    def __init__(self, pool: asyncpg.Pool, operation_id: UUID) -> None:
        self._pool = pool
        self._operation_id = operation_id
        self._woken = asyncio.Event()
        self._is_doubtful = False

    def wake(self) -> None:
        """There may be a command."""
        self._woken.set()

    def doubt(self) -> None:
        """The database was away: after a crash of it, the inbox is not there any more."""
        self._is_doubtful = True
        self._woken.set()

    async def commands(self) -> AsyncIterator[ReceivedCommand]:
        last = 0
        while True:
            self._woken.clear()
            for row in await self._waiting(last):
                last = row["number"]
                yield ReceivedCommand(number=last, command=self._command(row))
            try:
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _waiting(self, last: int) -> Sequence[asyncpg.Record]:
        """Return the rows beyond `last`. A database that is away ends no run: it comes back."""
        while True:
            try:
                with translated():
                    if self._is_doubtful:
                        self._is_doubtful = False
                        await self._pool.execute(REOPEN, self._operation_id)
                    rows: Sequence[asyncpg.Record] = await self._pool.fetch(
                        WAITING, self._operation_id, last
                    )
                    return rows
            except UnavailableError as error:
                _log.warning("inbox of operation %s not read: %s", self._operation_id, error)
                self._is_doubtful = True
                await asyncio.sleep(RETRY_S)

    async def start(self, number: int) -> bytes | None:
        with translated():
            payload: bytes | None = await self._pool.fetchval(START, number)
        return payload

    async def answer(self, number: int, answer: ControlAnswer) -> None:
        with translated():
            await self._pool.execute(ANSWER, number, _answer_text(number, answer))

    def _command(self, row: asyncpg.Record) -> GuestCommand:
        return GuestCommand(
            operation_id=self._operation_id,
            action=Action(row["action"]),
            spid=row["spid"],
            facts=orjson.loads(row["facts"]),
            actor=row["actor"],
            request_id=row["request_id"],
        )


def _answer_text(number: int, answer: ControlAnswer) -> str:
    """What the notification carries; NOTIFY takes less than 8,000 bytes."""
    fields = [answer.outcome, answer.spid, answer.text[:ANSWER_TEXT_CHARS_MAX], answer.field]
    return orjson.dumps([number, *fields]).decode()


def _answer_from(text: str) -> tuple[int, ControlAnswer]:
    number, outcome, spid, words, field = orjson.loads(text)
    return number, ControlAnswer(outcome=Outcome(outcome), spid=spid, text=words, field=field)
