"""Files on their way into a guest, many under way at once; docs/guest-protocol.md, FILE_BEGIN.

Frames of many files leave in one write and the agent answers in order, so the number of round trips
does not grow with the number of files. Answers are bounded: past WINDOW_FILES without one, the
next file waits. What the agent does not read waits in its socket, as everything does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from contree.adapters.microvm.agent import commands, messages
from contree.adapters.microvm.agent.channel import AgentChannel, AnswerKey
from contree.adapters.microvm.agent.commands import MAX_DATA_CHUNK_BYTES, FileKind, HostFrameType
from contree.adapters.microvm.agent.messages import GuestFrame
from contree.app.guest.microvm import GuestFile
from contree.domain.errors import OperationFailure

WINDOW_FILES = 1024
"""Files whose end is sent and not answered yet."""

WRITE_BYTES = 16 * 1024
"""Gathered before they are written: the guest works while more is read."""

_ANSWER: AnswerKey = (HostFrameType.FILE_END, 0)


class FileStream:
    """One stream of files. When it fails the guest is of no use any more."""

    def __init__(self, channel: AgentChannel) -> None:
        self._channel = channel
        self._gathered = bytearray()
        self._file: GuestFile | None = None
        self._left_bytes = 0
        self._due: deque[tuple[GuestFile, asyncio.Future[GuestFrame]]] = deque()

    async def put(self, items: AsyncIterator[GuestFile | bytes]) -> None:
        """See `app.guest.microvm.Guest.put_files`."""
        async for item in items:
            if isinstance(item, bytes):
                self._data(item)
            else:
                self._end()
                self._begin(item)
            is_full = len(self._due) >= WINDOW_FILES
            if is_full or len(self._gathered) >= WRITE_BYTES:
                await self._write()
                await self._settle(WINDOW_FILES // 2 if is_full else WINDOW_FILES)
        self._end()
        await self._write()
        await self._settle(0)

    def _begin(self, file: GuestFile) -> None:
        try:
            self._gathered += commands.file_begin(
                path=file.path,
                uid=file.uid,
                gid=file.gid,
                mode=file.mode,
                size=file.size_bytes,
                kind=FileKind[file.kind.name],
                mtime_s=file.mtime_s,
                target=file.target,
            )
        except ValueError as error:
            raise OperationFailure(f"{file.name}: {error}") from error
        self._file, self._left_bytes = file, file.size_bytes

    def _data(self, data: bytes) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise self._wrong_size()
        for at in range(0, len(data), MAX_DATA_CHUNK_BYTES):
            self._gathered += commands.file_data(data[at : at + MAX_DATA_CHUNK_BYTES])

    def _end(self) -> None:
        if self._file is None:
            return
        if self._left_bytes:
            raise self._wrong_size()
        self._gathered += commands.file_end()
        self._due.append((self._file, self._channel.expect(_ANSWER)))
        self._file = None

    def _wrong_size(self) -> OperationFailure:
        assert self._file is not None  # bytes follow a file
        return OperationFailure(
            f"{self._file.name}: content is not of its {self._file.size_bytes} bytes"
        )

    async def _write(self) -> None:
        if self._gathered:
            frames, self._gathered = bytes(self._gathered), bytearray()
            await self._channel.send(frames)

    async def _settle(self, most: int) -> None:
        """Take the answers that are there, and wait until no more than `most` are due."""
        while self._due and (len(self._due) > most or self._due[0][1].done()):
            file, answer = self._due.popleft()
            frame = await self._channel.settled(answer, _ANSWER)
            if isinstance(frame, messages.GuestError):
                raise OperationFailure(f"{file.name}: {frame.message}")
