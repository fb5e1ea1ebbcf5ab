"""A running guest: `app.guest.microvm.Guest` over the channel to its agent.

Translates between the use case's values and frames, keeps to the stdin window, and holds the guest
to what is due (process_ledger). It neither starts nor ends the VM.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator

from contree.adapters.microvm.agent import commands, messages
from contree.adapters.microvm.agent.capture_stream import CaptureStream
from contree.adapters.microvm.agent.channel import AgentChannel
from contree.adapters.microvm.agent.commands import MAX_DATA_CHUNK_BYTES, HostFrameType
from contree.adapters.microvm.agent.data_port import DataPort
from contree.adapters.microvm.agent.event_buffer import EventBuffer
from contree.adapters.microvm.agent.file_stream import FileStream
from contree.adapters.microvm.agent.process_events import (
    exited_event,
    output_event,
    truncated_event,
)
from contree.adapters.microvm.agent.process_ledger import LiveProcess, ProcessLedger
from contree.app.guest.microvm import (
    EXIT_NOT_EXECUTABLE,
    EXIT_NOT_FOUND,
    EXIT_NOT_STARTED,
    GuestFile,
    GuestInfo,
    ProcessEvent,
    ProcessSpec,
    SpawnRefused,
)
from contree.domain.errors import GuestFailure, NotFoundError

_NOT_EXECUTABLE = {
    errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.ENOTDIR, errno.E2BIG, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EPERM, errno.ETXTBSY, errno.ELIBBAD,
}  # fmt: skip


class AgentGuest:
    """See `app.guest.microvm.Guest`. Made by the runner, which connects it with `attach`."""

    info: GuestInfo

    def __init__(self) -> None:
        self.buffer = EventBuffer()
        self.mounted = asyncio.Event()
        """Its disks are there, or never will be: then the channel has failed."""
        self._ledger = ProcessLedger()
        self._stdin_locks: dict[int, asyncio.Lock] = {}
        self._stdin_changed = asyncio.Condition()
        self._channel: AgentChannel
        self._data: DataPort

    def attach(self, channel: AgentChannel, data: DataPort, info: GuestInfo) -> None:
        self._channel = channel
        self._data = data
        self.info = info

    async def put_files(self, items: AsyncIterator[GuestFile | bytes]) -> None:
        await self.mounted.wait()
        await FileStream(self._channel).put(items)

    async def spawn(self, spid: int, spec: ProcessSpec) -> int:
        try:
            frame = commands.spawn(_spawn_request(spid, spec))
        except ValueError as error:
            raise SpawnRefused(exit_code=EXIT_NOT_STARTED, reason=str(error)) from error
        await self.mounted.wait()
        self._ledger.start(spid, output_bytes_max=spec.output_bytes_max, stdin_open=spec.stdin_open)
        answer = await self._channel.ask(frame, (HostFrameType.SPAWN, spid))
        match answer:
            case messages.Spawned():
                return answer.pid
            case messages.SpawnFailed():
                raise _refusal(answer, spec)
            case _:
                raise await self._channel.lose(f"it answered SPAWN with {type(answer).__name__}")

    def events(self) -> AsyncIterator[ProcessEvent]:
        return self.buffer.consume()

    async def write_stdin(self, spid: int, data: bytes) -> None:
        process = self._writable(spid)
        async with self._stdin_locks.setdefault(spid, asyncio.Lock()):
            at = 0
            while at < len(data):
                await self._stdin_room(process)
                size_bytes = min(process.stdin_window_bytes, MAX_DATA_CHUNK_BYTES, len(data) - at)
                process.sent_stdin(size_bytes)
                await self._channel.send(commands.stdin(spid, data[at : at + size_bytes]))
                at += size_bytes

    async def close_stdin(self, spid: int) -> None:
        process = self._live(spid)
        async with self._stdin_locks.setdefault(spid, asyncio.Lock()):
            if process.stdin_open:
                process.stdin_open = False
                process.sent_stdin(0)
                await self._channel.send(commands.stdin_eof(spid))

    async def signal(self, spid: int, number: int) -> None:
        self._live(spid)
        answer = await self._channel.ask(
            commands.signal(spid, number), (HostFrameType.SIGNAL, spid)
        )
        if isinstance(answer, messages.GuestError):
            raise NotFoundError("live process", spid)

    async def capture(self, *, bytes_max: int) -> AsyncIterator[bytes]:
        await self.mounted.wait()
        await self.buffer.drop_overflow()
        stream = CaptureStream(self._channel, self._data, bytes_max=bytes_max)
        async for data in stream.chunks():
            yield data

    async def take(self, frame: messages.GuestFrame) -> None:
        """Handle what the channel hears about processes. Raises GuestProtocolError."""
        match frame:
            case messages.Spawned():
                self._ledger.spawned(frame.spid)
            case messages.SpawnFailed():
                self._ledger.spawn_failed(frame.spid)
            case messages.Output():
                self._ledger.speaking(frame.spid).take_output(frame)
                await self.buffer.put(output_event(frame))
            case messages.Truncated():
                self._ledger.speaking(frame.spid).take_truncated(frame)
                await self.buffer.put(truncated_event(frame))
            case messages.StdinCredit():
                self._ledger.speaking(frame.spid).take_credit(frame)
                await self._wake_writers()
            case messages.GuestError():
                self._ledger.stdin_error(frame)
                await self._wake_writers()
            case messages.Exited():
                self._ledger.exited(frame.spid).stdin_open = False
                self._stdin_locks.pop(frame.spid, None)
                await self._wake_writers()
                await self.buffer.put(exited_event(frame))
            case _:
                raise AssertionError(f"{type(frame).__name__} is an answer")

    async def lost(self, failure: GuestFailure | None) -> None:
        """Let nobody wait any more; None when the guest is closed in good order."""
        self.mounted.set()
        await self.buffer.end(failure)
        await self._wake_writers()

    async def _wake_writers(self) -> None:
        async with self._stdin_changed:
            self._stdin_changed.notify_all()

    async def _stdin_room(self, process: LiveProcess) -> None:
        def settled() -> bool:
            return (
                process.stdin_window_bytes > 0
                or not process.stdin_open
                or self._channel.failure is not None
            )

        async with self._stdin_changed:
            await self._stdin_changed.wait_for(settled)
        if self._channel.failure is not None:
            raise self._channel.failure
        if not process.stdin_open:
            raise NotFoundError("standard input of process", process.spid)

    def _live(self, spid: int) -> LiveProcess:
        if self._channel.failure is not None:
            raise self._channel.failure
        process = self._ledger.find(spid)
        if process is None:
            raise NotFoundError("live process", spid)
        return process

    def _writable(self, spid: int) -> LiveProcess:
        process = self._live(spid)
        if not process.stdin_open:
            raise NotFoundError("standard input of process", spid)
        return process


def _spawn_request(spid: int, spec: ProcessSpec) -> commands.Spawn:
    return commands.Spawn(
        spid=spid,
        uid=spec.uid,
        gid=spec.gid,
        stdin_open=spec.stdin_open,
        timeout_ms=spec.timeout_ms,
        stdout_cap_bytes=spec.output_bytes_max,
        stderr_cap_bytes=spec.output_bytes_max,
        cwd=os.fsencode(spec.cwd),
        argv=[os.fsencode(word) for word in spec.argv],
        env=[os.fsencode(f"{name}={value}") for name, value in spec.env.items()],
        home=spec.home,
    )


def _refusal(answer: messages.SpawnFailed, spec: ProcessSpec) -> SpawnRefused:
    # errno is a guest's number: strerror says "Unknown error" for one that is none.
    why = os.strerror(answer.errno)
    if answer.stage is messages.SpawnStage.EXEC:
        code = EXIT_NOT_STARTED
        if answer.errno == errno.ENOENT:
            code = EXIT_NOT_FOUND
        elif answer.errno in _NOT_EXECUTABLE:
            code = EXIT_NOT_EXECUTABLE
        return SpawnRefused(exit_code=code, reason=f"{spec.argv[0]}: {why}")
    if answer.stage is messages.SpawnStage.CWD:
        return SpawnRefused(exit_code=EXIT_NOT_STARTED, reason=f"cwd {spec.cwd}: {why}")
    reason = f"{answer.stage.name.lower()} failed: {why}"
    return SpawnRefused(exit_code=EXIT_NOT_STARTED, reason=reason)
