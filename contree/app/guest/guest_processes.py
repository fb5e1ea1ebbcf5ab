"""The processes of one guest while it runs: what each may still be given, and what each does.

Everything that happens to them goes into the operation's journal, for each process in the order
spawn, streams, exit. It decides nothing about the operation: the caller waits for the end of the
main process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from signal import SIGKILL

from contree.app.guest.microvm import (
    Exited,
    Guest,
    Output,
    ProcessEvent,
    ProcessSpec,
    SpawnRefused,
    Stream,
)
from contree.app.operation_journal import OperationJournal
from contree.domain.errors import GuestFailure, InvalidTransitionError, NotFoundError

KILL_GRACE_S = 10.0
"""How long killed processes may take to be reported as ended."""


@dataclass(slots=True)
class _Process:
    """One process from the request to spawn it to its exit.

    announced    set once its spawn is in the journal: nothing it does goes there before
    stdin_turn   writers go one after another, first come first served
    """

    spid: int
    spec: ProcessSpec
    stdin_open: bool
    announced: asyncio.Event = field(default_factory=asyncio.Event)
    stdin_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    stdin_shown_bytes: int = 0
    stdin_dropped_bytes: int = 0
    output_bytes: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))

    def check_output(self, event: Output) -> None:
        """Hold the guest to the cap that it was given."""
        self.output_bytes[event.stream] += len(event.data)
        if self.output_bytes[event.stream] > self.spec.output_bytes_max:
            raise GuestFailure("the guest sent more output than it was allowed to")


class GuestProcesses:
    """The table of processes. `observe` must run for as long as the guest is used."""

    def __init__(self, guest: Guest, journal: OperationJournal) -> None:
        self._guest = guest
        self._journal = journal
        self._live: dict[int, _Process] = {}
        self._changed = asyncio.Condition()
        self._feeding: set[asyncio.Task[None]] = set()

    async def spawn(
        self,
        spid: int,
        spec: ProcessSpec,
        *,
        shell: bool,
        stdin: AsyncIterator[bytes] | None = None,
        close_stdin: bool = True,
        record: Callable[[int], Awaitable[None]] | None = None,
    ) -> int:
        """Start a process and return its pid in the guest; `stdin` is fed while it runs.

        `record` is awaited with the pid before the journal shows the process. Raises SpawnRefused
        (nothing was started and nothing is shown) and GuestFailure.
        """
        process = _Process(spid=spid, spec=spec, stdin_open=spec.stdin_open)
        self._live[spid] = process
        try:
            pid = await self._guest.spawn(spid, spec)
        except SpawnRefused:
            del self._live[spid]
            raise
        try:
            if stdin is not None:
                # It takes the first turn now, before anybody can know that the process is there.
                feeding = asyncio.create_task(self._feed(process, stdin, close=close_stdin))
                self._feeding.add(feeding)
            if record is not None:
                await record(pid)
            await self._journal.spawned(spid, pid, spec, shell=shell)
        finally:
            process.announced.set()
        await self._journal.flush()  # whoever is told of the process finds it in the journal
        return pid

    async def observe(self, seen: Callable[[ProcessEvent], None]) -> None:
        """Write what processes do into the journal, then call `seen`, until the guest is gone.

        Raises GuestFailure when the guest is lost, or speaks of a process that does not run.
        """
        async for event in self._guest.events():
            process = self._live.get(event.spid)
            if process is None:
                raise GuestFailure(f"the guest spoke of process {event.spid}, which does not run")
            await process.announced.wait()
            if isinstance(event, Output):
                process.check_output(event)
            elif isinstance(event, Exited):
                await self._end_of_stdin(process)
            await self._journal.observed(event)
            if isinstance(event, Exited):
                async with self._changed:
                    del self._live[event.spid]
                    self._changed.notify_all()
            seen(event)

    @asynccontextmanager
    async def stdin_turn(self, spid: int) -> AsyncIterator[None]:
        """Wait for all who came before; inside, `write_stdin` and `close_stdin` may be called.

        Raises NotFoundError (no live process) and InvalidTransitionError (it takes no input).
        """
        process = self._find(spid)
        _require_open(process)
        async with process.stdin_turn:
            _require_open(self._find(spid))
            yield

    async def write_stdin(self, spid: int, data: bytes) -> None:
        """Pass all of `data` on, waiting while the process does not read."""
        await self._write(self._find(spid), data)

    async def close_stdin(self, spid: int) -> None:
        """End its standard input: what was written before comes first."""
        process = self._find(spid)
        process.stdin_open = False
        await self._guest.close_stdin(spid)
        await self._end_of_stdin(process)

    def require_live(self, spid: int) -> None:
        """Raise NotFoundError unless the process runs."""
        self._find(spid)

    async def signal(self, spid: int, number: int) -> None:
        """Signal its process group. Raises NotFoundError."""
        self._find(spid)
        await self._guest.signal(spid, number)

    async def kill_all(self) -> None:
        """Kill what still runs and wait until the journal shows that it ended.

        For KILL_GRACE_S, and for as long as it is the journal that takes the time.
        """
        for spid in list(self._live):
            with suppress(NotFoundError):
                await self._guest.signal(spid, SIGKILL)
        while self._live:
            written_s = self._journal.writing_s
            with suppress(TimeoutError):
                async with asyncio.timeout(KILL_GRACE_S), self._changed:
                    await self._changed.wait_for(lambda: not self._live)
            if self._journal.writing_s - written_s < KILL_GRACE_S / 2:
                return

    async def aclose(self) -> None:
        """Stop feeding standard input. Raises what a feeder met, other than the process's end."""
        for task in self._feeding:
            task.cancel()
        results = await asyncio.gather(*self._feeding, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, GuestFailure):
                raise result

    async def _feed(self, process: _Process, stdin: AsyncIterator[bytes], *, close: bool) -> None:
        """Write the initial input. A process may end or close it unread: that is its right."""
        async with process.stdin_turn:
            await process.announced.wait()
            try:
                async for data in stdin:
                    await self._write(process, data)
                if close:
                    await self.close_stdin(process.spid)
            except InvalidTransitionError:
                return
            except NotFoundError as error:
                if error.kind != "live process":
                    raise  # the bytes themselves are not there

    async def _write(self, process: _Process, data: bytes) -> None:
        if not data:
            return
        try:
            await self._guest.write_stdin(process.spid, data)
        except NotFoundError as error:
            process.stdin_open = False
            if error.kind == "live process":
                raise
            _require_open(process)
        if process.spid in self._live:
            room = process.spec.output_bytes_max - process.stdin_shown_bytes
            shown = data[: max(0, room)]
            process.stdin_shown_bytes += len(shown)
            process.stdin_dropped_bytes += len(data) - len(shown)
            await self._journal.fed(process.spid, shown)

    async def _end_of_stdin(self, process: _Process) -> None:
        """Say once, at its end, what of its input the journal does not show."""
        if process.stdin_dropped_bytes:
            dropped_bytes, process.stdin_dropped_bytes = process.stdin_dropped_bytes, 0
            await self._journal.truncated(
                process.spid,
                "stdin",
                emitted_bytes=process.stdin_shown_bytes,
                dropped_bytes=dropped_bytes,
            )

    def _find(self, spid: int) -> _Process:
        process = self._live.get(spid)
        if process is None:
            raise NotFoundError("live process", spid)
        return process


def _require_open(process: _Process) -> None:
    if not process.stdin_open:
        raise InvalidTransitionError(
            f"standard input of process {process.spid} is closed; start it with stdin.close=false"
        )
