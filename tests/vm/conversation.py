"""Run commands in a guest that several tests share: one consumer of its events, sorted by spid."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from contree.app.guest.microvm import (
    Exited,
    Guest,
    Output,
    ProcessEvent,
    ProcessSpec,
    Stream,
    Truncated,
)
from contree.domain.errors import GuestFailure

PATH = {"PATH": "/bin"}


@dataclass(slots=True)
class Finished:
    """All that a process said. `after_exit` counts events that came too late."""

    exited: Exited | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: list[Truncated] = field(default_factory=list)
    after_exit: int = 0

    @property
    def code(self) -> int:
        assert self.exited is not None
        return self.exited.exit_code

    @property
    def text(self) -> str:
        return self.stdout.decode()


class Conversation:
    """`guest` with a pump on its events; `failure` when they ended with one."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.failure: GuestFailure | None = None
        self._spids = count(1)
        self._finished: dict[int, Finished] = defaultdict(Finished)
        self._changed = asyncio.Condition()
        self._ended = False
        self.pump = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        try:
            async for event in self.guest.events():
                self._take(event)
                async with self._changed:
                    self._changed.notify_all()
        except GuestFailure as failure:
            self.failure = failure
        self._ended = True
        async with self._changed:
            self._changed.notify_all()

    def _take(self, event: ProcessEvent) -> None:
        record = self._finished[event.spid]
        record.after_exit += record.exited is not None
        match event:
            case Output(stream=Stream.STDOUT):
                record.stdout += event.data
            case Output():
                record.stderr += event.data
            case Truncated():
                record.truncated.append(event)
            case Exited():
                record.exited = event

    async def spawn(
        self,
        *argv: str,
        env: Mapping[str, str] = PATH,
        cwd: str = "/",
        uid: int = 0,
        gid: int = 0,
        stdin_open: bool = False,
        timeout_ms: int = 0,
        output_bytes_max: int = 1024**2,
    ) -> int:
        """Start a process and return its spid."""
        spid = next(self._spids)
        spec = ProcessSpec(
            argv=argv, env=env, cwd=cwd, uid=uid, gid=gid, stdin_open=stdin_open,
            timeout_ms=timeout_ms, output_bytes_max=output_bytes_max,
        )  # fmt: skip
        await self.guest.spawn(spid, spec)
        return spid

    async def output(self, spid: int, least_bytes: int) -> bytes:
        """Wait until a process has written so much to its standard output."""
        record = self._finished[spid]
        async with self._changed:
            await self._changed.wait_for(lambda: len(record.stdout) >= least_bytes or self._ended)
        return record.stdout

    async def end(self, spid: int) -> Finished:
        """Wait for the end of a process. Raises the guest's failure."""
        record = self._finished[spid]
        async with self._changed:
            await self._changed.wait_for(lambda: record.exited is not None or self._ended)
        if record.exited is None and self.failure is not None:
            raise self.failure
        return record

    async def sh(self, script: str, **spec: object) -> Finished:
        """Run a shell script to its end."""
        return await self.end(await self.spawn("/bin/sh", "-c", script, **spec))


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
