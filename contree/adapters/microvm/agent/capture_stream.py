"""The tar of what a guest wrote, as it comes from the data port; docs/guest-protocol.md section 6.

Bytes are passed on unread. The stream is whole only when the agent has said so on the control port
and the counts agree. Who sends may be a hostile root in the guest, so it is held to a pace: what
comes byte by byte would otherwise keep the run's place for ever.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator
from typing import Any

from contree.adapters.microvm.agent import commands, messages
from contree.adapters.microvm.agent.channel import PORT_CLOSED, AgentChannel
from contree.adapters.microvm.agent.commands import HostFrameType
from contree.adapters.microvm.agent.data_port import DataPort
from contree.adapters.microvm.agent.messages import GuestErrorCode, GuestFrame
from contree.domain.errors import LayerRefused

_REFUSALS = (GuestErrorCode.LIMIT, GuestErrorCode.BAD_NAME)


class CaptureStream:
    """One capture; a guest has one in its life."""

    def __init__(self, channel: AgentChannel, data: DataPort, *, bytes_max: int) -> None:
        self._channel = channel
        self._data = data
        self._bytes_max = bytes_max
        self._received_bytes = 0
        self._waited_s = 0.0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the tar. Raises LayerRefused and GuestFailure, see `Guest.capture`."""
        answer = self._channel.expect((HostFrameType.CAPTURE, 0))
        self._channel.quiet_allowed = True
        await self._channel.send(commands.capture(self._bytes_max))
        reading: asyncio.Task[bytes] | None = None
        try:
            while not await self._complete(answer):
                reading = reading or asyncio.create_task(self._data.read())
                waiting: set[asyncio.Future[Any]] = {reading}
                if not answer.done():
                    waiting.add(answer)
                if reading in await self._wait_in_time(waiting):
                    data = await self._account(reading.result())
                    # The next piece comes while this one is made use of.
                    reading = asyncio.create_task(self._data.read())
                    yield data
        except OSError as error:
            raise await self._channel.lose(PORT_CLOSED) from error
        finally:
            answer.cancel()
            if reading is not None:
                reading.cancel()
            self._channel.quiet_allowed = False

    async def _wait_in_time(self, waiting: set[asyncio.Future[Any]]) -> set[asyncio.Future[Any]]:
        """Wait for the first and return what is done. Raises GuestFailure when that is too late.

        The time between two calls is not counted: it is we who do not read then.
        """
        deadlines = self._channel.deadlines
        left_s = deadlines.capture_s(self._received_bytes) - self._waited_s
        began = time.monotonic()
        done, _ = await asyncio.wait(
            waiting,
            timeout=max(0.0, min(left_s, deadlines.capture_stall_s)),
            return_when=asyncio.FIRST_COMPLETED,
        )
        self._waited_s += time.monotonic() - began
        if done:
            return done
        if deadlines.capture_stall_s <= left_s:
            reason = f"its capture stood still for {deadlines.capture_stall_s:g} s"
        else:
            reason = (
                f"its capture is too slow: {self._received_bytes} bytes in {self._waited_s:.0f} s"
            )
        raise await self._channel.lose(reason)

    async def _complete(self, answer: asyncio.Future[GuestFrame]) -> bool:
        """Whether the agent has said that the stream is what we have. Raises what it says else."""
        if not answer.done():
            return False
        match answer.result():
            case messages.Captured() as captured:
                if captured.size_bytes < self._received_bytes:
                    raise await self._channel.lose("its capture is longer than it says")
                return captured.size_bytes == self._received_bytes
            case messages.GuestError(code=GuestErrorCode.LIMIT, errno=errno.EFBIG):
                raise self._too_large()
            case messages.GuestError() as error if error.code in _REFUSALS:
                raise LayerRefused(f"what the command wrote cannot be kept: {error.message}")
            case messages.GuestError() as error:
                raise await self._channel.lose(f"its capture failed: {error.message}")
            case other:
                raise AssertionError(f"{type(other).__name__} does not answer CAPTURE")

    async def _account(self, data: bytes) -> bytes:
        if not data:
            raise await self._channel.lose(PORT_CLOSED)
        self._received_bytes += len(data)
        if self._received_bytes > self._bytes_max:
            raise self._too_large()
        return data

    def _too_large(self) -> LayerRefused:
        return LayerRefused(
            f"max_layer_bytes: what the command wrote is more than {self._bytes_max} bytes"
        )
