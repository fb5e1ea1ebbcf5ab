"""Guest control in memory: both ends in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from contree.app.guest.guest_control import (
    COMMANDS_WAITING_MAX,
    ControlAnswer,
    GuestCommand,
    Outcome,
    ReceivedCommand,
)


@dataclass(slots=True)
class _Row:
    number: int
    command: GuestCommand
    answer: asyncio.Future[ControlAnswer]
    started: bool = False


class FakeInbox:
    def __init__(self) -> None:
        self.rows: dict[int, _Row] = {}
        self.is_open = True
        self.changed = asyncio.Condition()

    async def commands(self) -> AsyncIterator[ReceivedCommand]:
        last = 0
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda seen=last: max(self.rows, default=0) > seen)
                row = self.rows[min(number for number in self.rows if number > last)]
            last = row.number
            yield ReceivedCommand(number=last, command=replace(row.command, payload=b""))

    async def start(self, number: int) -> bytes | None:
        row = self.rows.get(number)
        if row is None:
            return None
        row.started = True
        return row.command.payload

    async def answer(self, number: int, answer: ControlAnswer) -> None:
        await self.forget(number, answer)

    async def forget(self, number: int, answer: ControlAnswer) -> None:
        async with self.changed:
            row = self.rows.pop(number, None)
            if row is not None and not row.answer.done():
                row.answer.set_result(answer)
            self.changed.notify_all()


class FakeGuestControl:
    def __init__(self) -> None:
        self.inboxes: dict[UUID, FakeInbox] = {}
        self._number = 0

    async def send(self, command: GuestCommand, *, within_s: float) -> ControlAnswer:
        inbox = self.inboxes.get(command.operation_id)
        if inbox is None:
            return ControlAnswer(outcome=Outcome.NOT_READY)
        deadline = asyncio.get_running_loop().time() + within_s
        row: _Row | None = None
        try:
            async with asyncio.timeout_at(deadline):
                async with inbox.changed:
                    await inbox.changed.wait_for(
                        lambda: not inbox.is_open or len(inbox.rows) < COMMANDS_WAITING_MAX
                    )
                    if not inbox.is_open:
                        return ControlAnswer(outcome=Outcome.ENDED)
                    self._number += 1
                    row = _Row(self._number, command, asyncio.get_running_loop().create_future())
                    inbox.rows[row.number] = row
                    inbox.changed.notify_all()
                return await asyncio.shield(row.answer)
        except TimeoutError:
            if row is None or not row.started:
                busy = ControlAnswer(outcome=Outcome.BUSY)
                if row is not None:
                    await inbox.forget(row.number, busy)
                return busy
            return ControlAnswer(outcome=Outcome.UNKNOWN)
        except asyncio.CancelledError:
            if row is not None and not row.started:
                inbox.rows.pop(row.number, None)
            raise

    @asynccontextmanager
    async def open(self, operation_id: UUID) -> AsyncIterator[FakeInbox]:
        inbox = self.inboxes[operation_id] = FakeInbox()
        try:
            yield inbox
        finally:
            inbox.is_open = False
            for number in list(inbox.rows):
                await inbox.forget(number, ControlAnswer(outcome=Outcome.ENDED))
