"""Run the main command of an instance in a guest that is up, and whatever clients start beside it.

spawn main --> serve clients' commands, observe all processes --> main has ended
--> no more commands --> what is left is killed and seen to its end
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from contree.app.guest.control_server import ControlServer
from contree.app.guest.guest_control import Inbox
from contree.app.guest.guest_processes import GuestProcesses
from contree.app.guest.microvm import (
    Exited,
    Guest,
    Output,
    ProcessEvent,
    ProcessSpec,
    SpawnRefused,
    Stream,
    Truncated,
    why_refused,
)
from contree.app.operation_journal import OperationJournal
from contree.domain.errors import GuestFailure, OperationFailure
from contree.domain.operation import MAIN_SPID
from contree.domain.outcome import NOT_EXITED

EXIT_GRACE_S = 15.0
"""How long after the command's own timeout the guest may take to say that it has ended."""

LOOK_AGAIN_S = 0.1

SETTLE_S = 5.0
"""How long a spawn or signal that was begun may take when the main command has ended."""


@dataclass(slots=True)
class CapturedOutput:
    """One stream of the main process as it arrives, at most its cap."""

    data: bytearray = field(default_factory=bytearray)
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How the main command ended, and what it wrote, at most the cap of each stream."""

    exited: Exited
    stdout: CapturedOutput
    stderr: CapturedOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """How clients reach the processes: the inbox of the operation, and who serves it."""

    inbox: AbstractAsyncContextManager[Inbox]
    server: Callable[[Inbox, GuestProcesses], ControlServer]


class MainProcess:
    """What is known of the main process, from the stream of all events.

    Made by the caller, so that it outlives a failure of whatever comes after it.
    """

    def __init__(self) -> None:
        self.ended: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()
        self.captured = {stream: CapturedOutput() for stream in Stream}
        self._pid: int | None = None
        self._spawned_at_s = 0.0
        self._timeout_s = 0.0

    def spawned(self, pid: int, *, timeout_s: float) -> None:
        self._pid, self._timeout_s = pid, timeout_s
        self._spawned_at_s = asyncio.get_running_loop().time()

    def seen(self, event: ProcessEvent) -> None:
        if event.spid != MAIN_SPID:
            return
        if isinstance(event, Output):
            self.captured[event.stream].data += event.data
        elif isinstance(event, Truncated):
            self.captured[event.stream].dropped_bytes = event.dropped_bytes
        elif not self.ended.done():
            self.ended.set_result(event)

    def result(self) -> CommandResult | None:
        """Return how it ended and what it wrote; None when it was not started.

        Where the guest has not reported its end, exit code and signal are both NOT_EXITED.
        """
        if self.ended.done():
            exited = self.ended.result()
        elif self._pid is None:
            return None
        else:
            ran_s = asyncio.get_running_loop().time() - self._spawned_at_s
            exited = Exited(
                spid=MAIN_SPID,
                pid=self._pid,
                exit_code=NOT_EXITED,
                signal=NOT_EXITED,
                core_dumped=False,
                timed_out=ran_s >= self._timeout_s > 0,
                oom_killed=False,
                duration_us=round(ran_s * 1_000_000),
            )
        return CommandResult(
            exited=exited, stdout=self.captured[Stream.STDOUT], stderr=self.captured[Stream.STDERR]
        )


async def run_command(
    guest: Guest,
    spec: ProcessSpec,
    *,
    main: MainProcess,
    stdin: AsyncIterator[bytes] | None,
    close_stdin: bool,
    shell: bool,
    journal: OperationJournal,
    steering: Steering,
) -> None:
    """Start `spec` as the main process, feed it `stdin`, and return when it has ended.

    `main` then has its result; after a failure it has what was seen until then. With `close_stdin`,
    end of file follows `stdin`. Clients' commands are taken from the moment that the journal shows
    the process. Raises OperationFailure when the command cannot be started and GuestFailure when
    the guest does not report its end within EXIT_GRACE_S after its timeout.
    """
    processes = GuestProcesses(guest, journal)
    observing = asyncio.create_task(processes.observe(main.seen))
    try:
        async with steering.inbox as inbox:
            try:
                pid = await processes.spawn(
                    MAIN_SPID, spec, shell=shell, stdin=stdin, close_stdin=close_stdin
                )
            except SpawnRefused as refusal:
                await journal.ended("spawn_failed")
                why = why_refused(refusal, spec.argv[0], shell=shell)
                raise OperationFailure(
                    f"command '{spec.argv[0]}' could not be started: {why}"
                ) from refusal
            main.spawned(pid, timeout_s=spec.timeout_ms / 1000)
            server = steering.server(inbox, processes)
            serving = asyncio.create_task(server.serve())
            settle_s = SETTLE_S
            try:
                exited = await _end_of_main(main, observing, serving, spec, journal)
            except asyncio.CancelledError:
                settle_s = 0.0  # a client or the worker wants the end now
                raise
            finally:
                serving.cancel()
                await asyncio.wait({serving}, timeout=settle_s)
                serving.cancel()
                await asyncio.wait({serving})
                if settle_s and not observing.done():
                    await processes.kill_all()
                await server.settle(settle_s)
    finally:
        observing.cancel()
        await asyncio.wait({observing})
        await processes.aclose()
    await journal.ended("timeout" if exited.timed_out else "job_complete")


async def _end_of_main(
    main: MainProcess,
    observing: asyncio.Task[None],
    serving: asyncio.Task[None],
    spec: ProcessSpec,
    journal: OperationJournal,
) -> Exited:
    """Wait for the exit of the main process. Raises what the other two met instead.

    For as long as the journal cannot be written, nothing that the guest reports is heard.
    """
    now_s = asyncio.get_running_loop().time
    begun_s, written_s = now_s(), journal.writing_s
    either: set[asyncio.Future[Any]] = {main.ended, observing, serving}
    while True:
        deadline_s = begun_s + spec.timeout_ms / 1000 + EXIT_GRACE_S
        left_s = deadline_s + journal.writing_s - written_s - now_s()
        if left_s <= 0:
            break
        pause_s = max(left_s, LOOK_AGAIN_S)  # while it is held up, what is left stays the same
        await asyncio.wait(either, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        if main.ended.done():
            return main.ended.result()
        for task in (observing, serving):
            if task.done():
                task.result()
                raise GuestFailure("the guest went away before the command ended")
    raise GuestFailure(
        f"the guest did not report the end of the command {EXIT_GRACE_S:.0f} s after its timeout"
    )
