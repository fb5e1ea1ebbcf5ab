"""The control port of one agent, as asyncio sees it: frames out, answers in, and a watchdog.

    connecting --READY--> talking --first of: end of file, malformed or undue frame, silence,
                                     an answer that is late, close()--> lost

Once lost it stays lost, and every waiter gets the same GuestFailure. The bytes come from an
untrusted guest (docs/guest-protocol.md): an answer that nobody waits for is a breach. What frames
about processes mean is the caller's (`on_frame`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from contree.adapters.microvm.agent import commands, messages
from contree.adapters.microvm.agent.commands import HostFrameType
from contree.adapters.microvm.agent.frames import FrameDecoder, GuestProtocolError
from contree.adapters.microvm.agent.messages import GuestFrame
from contree.domain.errors import GuestFailure

READ_BYTES = 256 * 1024
PINGS_IN_SILENCE = 4

PORT_CLOSED = "its port closed"
"""The reason that tells least: whoever explains it knows whether QEMU is still there."""

_T = TypeVar("_T")
AnswerKey = tuple[HostFrameType, int]
"""What an answer is about: the host's frame type and, for SPAWN and SIGNAL, the spid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a guest may take, in seconds of the host's monotonic clock.

    boot_s           from the start of QEMU to READY
    restore_s        from the start of a clone to READY; then it boots instead
    answer_s         any one request, and any one write that it does not read
    silence_s        no byte at all although asked
    capture_stall_s  no byte of the tar
    capture_grace_s  a whole tar; each capture_bytes_per_s bytes of it that are here give one more
                     second, up to capture_max_s. Only time for which we wait for the guest counts
    """

    boot_s: float = 120.0
    restore_s: float = 20.0
    answer_s: float = 30.0
    silence_s: float = 30.0
    capture_stall_s: float = 60.0
    capture_grace_s: float = 60.0
    capture_bytes_per_s: int = 64 * 1024
    """Under TCG a guest sends 3,000 of the smallest entries a second, 1.4 MiB, on a quiet host."""
    capture_max_s: float = 7200.0
    """The most entries that a layer may have, at half that speed and more."""

    def capture_s(self, received_bytes: int) -> float:
        """How long a guest may have taken that has sent so much of its tar."""
        earned_s = received_bytes / self.capture_bytes_per_s
        return min(self.capture_grace_s + earned_s, self.capture_max_s)


class AgentChannel:
    """Frames to and from one agent.

    on_frame       awaited for every frame that answers nothing; may raise GuestProtocolError
    paused         tells whether it is we who do not read at the moment
    explain        makes a failure of the reason why the guest is lost
    on_lost        awaited once, when `failure` is set
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        deadlines: Deadlines,
        on_frame: Callable[[GuestFrame], Awaitable[None]],
        paused: Callable[[], bool],
        explain: Callable[[str], Awaitable[GuestFailure]],
        on_lost: Callable[[GuestFailure], Awaitable[None]],
    ) -> None:
        self.deadlines = deadlines
        self.failure: GuestFailure | None = None
        self.quiet_allowed = False  # the agent is capturing and answers nothing meanwhile
        self._reader = reader
        self._writer = writer
        self._on_frame = on_frame
        self._paused = paused
        self._explain = explain
        self._on_lost = on_lost
        self._due: dict[AnswerKey, deque[asyncio.Future[GuestFrame]]] = {}
        self._heard = True
        self._losing = asyncio.Lock()
        self._tasks = [asyncio.create_task(self._read(), name="agent frames")]

    def watch(self) -> None:
        """From now on, silence ends the guest."""
        self._tasks.append(asyncio.create_task(self._watch(), name="agent watchdog"))

    async def ask(self, frame: bytes, key: AnswerKey, *, within_s: float = 0) -> GuestFrame:
        """Send `frame` and return its answer, which may be a GuestError. Raises GuestFailure."""
        answer = self.expect(key)
        await self.send(frame)
        return await self._in_time(answer, f"{key[0].name}", within_s or self.deadlines.answer_s)

    async def answer(self, key: AnswerKey, *, within_s: float) -> GuestFrame:
        """As `ask`, of what was sent before there was this channel."""
        return await self._in_time(self.expect(key), key[0].name, within_s)

    async def settled(self, answer: asyncio.Future[GuestFrame], key: AnswerKey) -> GuestFrame:
        """As `ask`, of what was sent after `expect`."""
        return await self._in_time(answer, key[0].name, self.deadlines.answer_s)

    def expect(self, key: AnswerKey) -> asyncio.Future[GuestFrame]:
        """Return a future of the next answer of this kind; cancelling it loses only the answer."""
        if self.failure is not None:
            raise self.failure
        answer: asyncio.Future[GuestFrame] = asyncio.get_running_loop().create_future()
        self._due.setdefault(key, deque()).append(answer)
        return answer

    async def send(self, frame: bytes) -> None:
        """Write one frame, waiting while the guest does not read. Raises GuestFailure."""
        if self.failure is not None:
            raise self.failure
        self._writer.write(frame)
        transport = self._writer.transport
        if transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]:
            drained = asyncio.ensure_future(self._drain())
            await self._in_time(drained, "reading what we write", self.deadlines.answer_s)

    async def lose(self, reason: str) -> GuestFailure:
        """Give the guest up, once; later calls return the first failure."""
        async with self._losing:
            if self.failure is None:
                self.failure = await self._explain(reason)
                self._writer.transport.abort()
                for answers in self._due.values():
                    for answer in answers:
                        if not answer.done():
                            answer.set_exception(self.failure)
                            answer.exception()  # whoever waits sees it; nobody need
                await self._on_lost(self.failure)
        return self.failure

    async def aclose(self) -> None:
        """Stop; every later call fails."""
        if self.failure is None:
            self.failure = GuestFailure("the guest was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._writer.transport.abort()

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            raise await self.lose(PORT_CLOSED) from error

    async def _in_time(self, answer: asyncio.Future[_T], what: str, within_s: float) -> _T:
        """Wait, unless the guest takes too long while we do read what it says."""
        try:
            while True:
                was_paused = self._paused()
                done, _ = await asyncio.wait({answer}, timeout=within_s)
                if done:
                    return answer.result()
                if not was_paused and not self._paused():
                    raise await self.lose(f"no answer to {what} in {within_s:g} s")
        finally:
            answer.cancel()

    async def _read(self) -> None:
        decoder = FrameDecoder()
        try:
            while data := await self._reader.read(READ_BYTES):
                self._heard = True
                for frame in decoder.feed(data):
                    await self._take(frame)
            reason = PORT_CLOSED
        except GuestProtocolError as error:
            reason = f"it broke the protocol: {error.reason}"
        except OSError:
            reason = PORT_CLOSED
        await self.lose(reason)

    async def _take(self, frame: GuestFrame) -> None:
        key = answered_by(frame)
        if key is None:
            await self._on_frame(frame)
            return
        waiting = self._due.get(key)
        if not waiting:
            raise GuestProtocolError(f"{type(frame).__name__}, which nobody asked for")
        answer = waiting.popleft()
        if not waiting:
            del self._due[key]
        # A process's first output may come in the same read as its SPAWNED.
        if isinstance(frame, messages.Spawned | messages.SpawnFailed):
            await self._on_frame(frame)
        if not answer.done():
            answer.set_result(frame)

    async def _watch(self) -> None:
        """Count ticks without a byte, not time: our own stalls must not count against the guest."""
        silent_ticks = 0
        ping: AnswerKey = (HostFrameType.HELLO, 0)
        while True:
            await asyncio.sleep(self.deadlines.silence_s / PINGS_IN_SILENCE)
            if self._heard or self._paused() or self.quiet_allowed:
                self._heard = False
                silent_ticks = 0
                continue
            if silent_ticks >= PINGS_IN_SILENCE:
                await self.lose(f"its agent said nothing for {self.deadlines.silence_s:g} s")
                return
            silent_ticks += 1
            if ping not in self._due and self.failure is None:
                self.expect(ping)
                self._writer.write(commands.hello())


def answered_by(frame: GuestFrame) -> AnswerKey | None:
    """Return what `frame` answers, None when it is not an answer but news of a process."""
    match frame:
        case messages.Ready():
            return HostFrameType.HELLO, 0
        case messages.Prepared():
            return HostFrameType.PREPARE, 0
        case messages.Rehearsed():
            return HostFrameType.REHEARSE, 0
        case messages.Configured():
            return HostFrameType.CONFIGURE, 0
        case messages.FileOk():
            return HostFrameType.FILE_END, 0
        case messages.Spawned() | messages.SpawnFailed():
            return HostFrameType.SPAWN, frame.spid
        case messages.Signalled():
            return HostFrameType.SIGNAL, frame.spid
        case messages.Captured():
            return HostFrameType.CAPTURE, 0
        case messages.GuestError():
            return _answered_by_error(frame)
        case _:
            return None


def _answered_by_error(frame: messages.GuestError) -> AnswerKey | None:
    try:
        request = HostFrameType(frame.request_type)
    except ValueError:
        raise GuestProtocolError(f"ERROR about frame type {frame.request_type:#x}") from None
    match request:
        case HostFrameType.STDIN | HostFrameType.STDIN_EOF:
            return None
        case HostFrameType.SIGNAL:
            return request, frame.spid
        case (
            HostFrameType.PREPARE
            | HostFrameType.REHEARSE
            | HostFrameType.CONFIGURE
            | HostFrameType.FILE_END
            | HostFrameType.CAPTURE
        ):
            return request, 0
        case _:
            raise GuestProtocolError(f"ERROR about {request.name}: {frame.message}")
