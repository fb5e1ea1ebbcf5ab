"""The worker's side of guest control, for one run: do what clients ask of the processes, in order.

Spawns and signals go at once; standard input goes process by process, so that one which does not
read holds up nobody else. Whatever was done is in the log before its sender is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from contree.app.guest.guest_control import (
    Action,
    ControlAnswer,
    GuestCommand,
    Inbox,
    Outcome,
    ReceivedCommand,
)
from contree.app.guest.guest_processes import GuestProcesses
from contree.app.guest.microvm import ProcessSpec, SpawnRefused, why_refused
from contree.app.operation_history import OperationHistory
from contree.domain.errors import (
    InvalidFieldError,
    InvalidTransitionError,
    NotFoundError,
    UnavailableError,
)
from contree.domain.instance import Stdin
from contree.domain.subprocess import SubprocessSpec

SUBPROCESSES_MAX = 1000
"""Processes that clients may start in one run."""

SIGNALS_MAX = 1000
"""Signals that clients may send in one run; each is an event of the log."""

STDIN_PATIENCE_S = 10.0
"""After so long a piece that the process does not read counts as accepted: it is ours to deliver,
before any later one. So one piece a process waits here, and the senders of later ones wait outside.
"""

ToProcess = Callable[[SubprocessSpec, bytes], Awaitable[ProcessSpec]]
"""Makes the process of a spec and its sealed secret environment (or nothing).

Raises InvalidFieldError for one that a guest cannot be given.
"""

ReadStdin = Callable[[Stdin], AsyncIterator[bytes]]


class ControlServer:
    """Serves one inbox over one guest's processes."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        processes: GuestProcesses,
        history: OperationHistory,
        to_process: ToProcess,
        read_stdin: ReadStdin,
    ) -> None:
        self._inbox = inbox
        self._processes = processes
        self._history = history
        self._to_process = to_process
        self._read_stdin = read_stdin
        self._spawned = 0
        self._signalled = 0
        self._next_spid = 0
        self._spawn_turn = asyncio.Lock()  # numbers enter the log in rising order
        self._feeding: set[asyncio.Task[None]] = set()
        self._acting: set[asyncio.Task[None]] = set()
        self._more = asyncio.Event()  # something was begun that `serve` does not wait for yet

    async def serve(self) -> None:
        """Do what comes, until cancelled. Raises what makes it impossible to go on.

        When cancelled it takes no more and finishes the spawns and signals that were begun: their
        record and their answer belong to them. Writers go on until `settle`.
        """
        self._next_spid = await self._history.last_spid() + 1
        receiving = asyncio.create_task(self._receive())
        try:
            while True:
                self._more.clear()
                begun = asyncio.create_task(self._more.wait(), name="more to wait for")
                tasks = {receiving, *self._feeding, *self._acting}
                try:
                    await asyncio.wait({*tasks, begun}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    begun.cancel()
                for task in filter(asyncio.Task.done, tasks):
                    self._feeding.discard(task)
                    self._acting.discard(task)
                    task.result()
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, *self._acting, return_exceptions=True)

    async def settle(self, within_s: float) -> None:
        """Let writers of standard input answer, whose processes are gone by now; then stop them."""
        if self._feeding:
            await asyncio.wait(self._feeding, timeout=within_s)
        for task in self._feeding:
            task.cancel()
        await asyncio.gather(*self._feeding, return_exceptions=True)

    async def _receive(self) -> None:
        async for received in self._inbox.commands():
            match received.command.action:
                case Action.STDIN:
                    self._feeding.add(asyncio.create_task(self._stdin(received)))
                case Action.SPAWN:
                    self._acting.add(asyncio.create_task(self._spawn(received)))
                case Action.SIGNAL:
                    self._acting.add(asyncio.create_task(self._signal(received)))
            self._more.set()

    async def _spawn(self, received: ReceivedCommand) -> None:
        sealed = await self._start(received)
        if sealed is None:
            return
        command = received.command
        spec = SubprocessSpec.from_fact(command.facts)
        if self._spawned >= SUBPROCESSES_MAX:
            text = f"the instance has had {SUBPROCESSES_MAX} subprocesses, which is the most"
            await self._answer(received, Outcome.REFUSED, text=text)
            return
        self._spawned += 1
        try:
            async with self._spawn_turn:
                spid = await self._spawn_next(command, spec, sealed)
        except SpawnRefused as refusal:
            why = why_refused(refusal, spec.command, shell=spec.shell)
            text = f"could not be started: {why}"
            await self._answer(received, Outcome.REFUSED, text=text, field="command")
            return
        except InvalidFieldError as error:
            await self._answer(received, Outcome.REFUSED, text=error.problem, field=error.field)
            return
        await self._answer(received, Outcome.DONE, spid=spid)

    async def _spawn_next(self, command: GuestCommand, spec: SubprocessSpec, sealed: bytes) -> int:
        spid, self._next_spid = self._next_spid, self._next_spid + 1

        async def record(pid: int) -> None:
            await self._history.spawned(command, spid=spid, pid=pid, spec=spec)

        await self._processes.spawn(
            spid,
            await self._to_process(spec, sealed),
            shell=spec.shell,
            stdin=None if spec.stdin is None else self._read_stdin(spec.stdin),
            close_stdin=spec.stdin is None or spec.stdin.close,
            record=record,
        )
        return spid

    async def _signal(self, received: ReceivedCommand) -> None:
        if await self._start(received) is None:
            return
        command = received.command
        number = int(command.facts["signal"])
        try:
            self._processes.require_live(command.spid)
            if self._signalled >= SIGNALS_MAX:
                text = f"the instance was sent {SIGNALS_MAX} signals, which is the most"
                await self._answer(received, Outcome.REFUSED, text=text)
                return
            self._signalled += 1
            # First the record: the signal may end the operation.
            await self._history.signalled(command, signal=number)
            await self._processes.signal(command.spid, number)
        except NotFoundError:
            await self._answer(received, Outcome.NO_PROCESS)
            return
        await self._answer(received, Outcome.DONE)

    async def _stdin(self, received: ReceivedCommand) -> None:
        spid = received.command.spid
        try:
            async with self._processes.stdin_turn(spid):
                data = await self._start(received)
                if data is None:
                    return
                writing = asyncio.create_task(
                    self._deliver(spid, data, close=bool(received.command.facts["close"]))
                )
                try:
                    done, _ = await asyncio.wait({writing}, timeout=STDIN_PATIENCE_S)
                    if not done:
                        await self._answer(received, Outcome.DONE)
                        with suppress(NotFoundError, InvalidTransitionError):
                            await writing
                        return
                    writing.result()
                finally:
                    writing.cancel()
        except NotFoundError:
            await self._answer_begun(received, Outcome.NO_PROCESS)
        except InvalidTransitionError:
            await self._answer_begun(received, Outcome.STDIN_CLOSED)
        else:
            await self._answer(received, Outcome.DONE)

    async def _deliver(self, spid: int, data: bytes, *, close: bool) -> None:
        await self._processes.write_stdin(spid, data)
        if close:
            await self._processes.close_stdin(spid)

    async def _answer_begun(self, received: ReceivedCommand, outcome: Outcome) -> None:
        """Refuse a command that may not have been begun; its sender may have taken it back."""
        await self._start(received)
        await self._answer(received, outcome)

    async def _answer(
        self,
        received: ReceivedCommand,
        outcome: Outcome,
        *,
        spid: int = 0,
        text: str = "",
        field: str = "",
    ) -> None:
        answer = ControlAnswer(outcome=outcome, spid=spid, text=text, field=field)
        # Without the database the sender learns nothing, and is told that; the run goes on.
        with suppress(UnavailableError):
            await self._inbox.answer(received.number, answer)

    async def _start(self, received: ReceivedCommand) -> bytes | None:
        """Begin a command; None when it need not be done (any more)."""
        try:
            return await self._inbox.start(received.number)
        except UnavailableError:
            return None  # its sender takes it back
