"""The guest's end of a socket pair: a test says, frame by frame, what a hostile agent says."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from contree.adapters.microvm.agent.channel import AgentChannel, Deadlines
from contree.adapters.microvm.agent.data_port import DataPort
from contree.adapters.microvm.agent.guest import AgentGuest
from contree.adapters.microvm.agent.messages import GuestFrameType
from contree.app.guest.microvm import GuestInfo
from contree.domain.errors import GuestFailure

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
FAST = Deadlines(boot_s=5, answer_s=1, silence_s=0.6, capture_stall_s=1)
SLOW = Deadlines(boot_s=60, answer_s=60, silence_s=60, capture_stall_s=60)


def frame(kind: GuestFrameType, payload: bytes = b"") -> bytes:
    return struct.pack("<IHH", len(payload), kind, 0) + payload


def spawned(spid: int, pid: int = 77) -> bytes:
    return frame(GuestFrameType.SPAWNED, struct.pack("<II", spid, pid))


def output(spid: int, data: bytes, stream: int = 1) -> bytes:
    return frame(GuestFrameType.OUTPUT, struct.pack("<IB", spid, stream) + data)


def credit(spid: int, count: int) -> bytes:
    return frame(GuestFrameType.STDIN_CREDIT, struct.pack("<II", spid, count))


def exited(spid: int, code: int = 0) -> bytes:
    fixed = struct.pack("<IIiiIQ", spid, 77, code, -1, 0, 1000)
    return frame(GuestFrameType.EXITED, fixed + struct.pack("<18q", *([-5] * 2 + [2**62] * 16)))


def file_ok(size_bytes: int) -> bytes:
    return frame(GuestFrameType.FILE_OK, struct.pack("<Q", size_bytes))


def captured(size_bytes: int) -> bytes:
    return frame(GuestFrameType.CAPTURED, struct.pack("<QQQ", size_bytes, 1, 1))


def error(request: int, code: int, spid: int = 0, message: bytes = b"because") -> bytes:
    fixed = struct.pack("<HHiI", request, code, 0, spid)
    text = struct.pack("<H", len(message)) + message
    return frame(GuestFrameType.ERROR, fixed + text)


def ready(state: int = 1, uptime_us: int = 1) -> bytes:
    fixed = struct.pack("<HHIQ", 1, state, 1, uptime_us)
    return frame(GuestFrameType.READY, fixed + struct.pack("<H", 0) * 2)


class ScriptedAgent:
    """`guest` is the code under test; `say` and `hear` are the other end."""

    def __init__(self) -> None:
        self.guest = AgentGuest()
        self.channel: AgentChannel
        self._control: Ends
        self._data: Ends
        self._port: DataPort
        self._writers: list[asyncio.StreamWriter] = []

    @classmethod
    async def connected(cls, info: GuestInfo, deadlines: Deadlines = SLOW) -> ScriptedAgent:
        agent = cls()
        host_control, agent._control = await agent._pair()
        host_data, guest_data = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        agent._port = DataPort(host_data)
        agent._data = await asyncio.open_connection(sock=guest_data)
        agent._writers.append(agent._data[1])

        async def explain(reason: str) -> GuestFailure:
            return GuestFailure(reason)

        on_frame: Callable[..., Awaitable[None]] = agent.guest.take
        agent.channel = AgentChannel(
            *host_control,
            deadlines=deadlines,
            on_frame=on_frame,
            paused=lambda: agent.guest.buffer.full,
            explain=explain,
            on_lost=agent.guest.lost,
        )
        agent.guest.attach(agent.channel, agent._port, info)
        agent.guest.mounted.set()
        return agent

    async def _pair(
        self,
    ) -> tuple[Ends, Ends]:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        opened = [await asyncio.open_connection(sock=end) for end in ends]
        self._writers += [writer for _, writer in opened]
        return opened[0], opened[1]

    async def say(self, *frames: bytes) -> None:
        self._control[1].write(b"".join(frames))
        await self._control[1].drain()

    async def say_data(self, data: bytes) -> None:
        self._data[1].write(data)
        await self._data[1].drain()

    async def hear(self) -> tuple[int, bytes]:
        """Return type and payload of the host's next frame."""
        length, kind, _ = struct.unpack("<IHH", await self._control[0].readexactly(8))
        return kind, await self._control[0].readexactly(length)

    def hang_up(self) -> None:
        self._control[1].close()

    async def aclose(self) -> None:
        await self.channel.aclose()
        await self.guest.lost(None)
        self._port.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)
