"""Write the journal of one attempt while it runs, in batches, in order.

Entries are queued without waiting and written by one task as fast as the journal takes them, so a
follower sees output within one write, and a burst becomes few writes: pieces of a stream that wait
together become one entry (journal_pieces). `finish` waits until all is durable and gives the digest
that the audit log keeps. While the database is away the writer waits, then everything behind it
does, up to the processes: so nothing of their output is lost.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self
from uuid import UUID

from contree.app.clock import Clock
from contree.app.guest.microvm import (
    Exited,
    GuestInfo,
    Output,
    ProcessEvent,
    ProcessSpec,
    Truncated,
)
from contree.app.journal import Journal, JournalEntry, NumberedEntry
from contree.app.journal_lines import line_of
from contree.app.journal_pieces import Piece, joined
from contree.app.outages import LOG_AWAY, Outages
from contree.domain.environment import masked
from contree.domain.errors import UnavailableError
from contree.domain.outcome import ResourceUsage
from contree.domain.stream_text import represent

BATCH_MAX = 256
WAITING_MAX = 256
"""Entries, of at most 32 KiB of output each, before the guest has to wait for the journal."""

JOURNAL_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of stream data (as shown, so base64 counts in full) that the journal of one attempt takes;
what comes after is left out, but for the events about starts and ends."""

ENTRY_COST_BYTES = 64
"""What an entry counts beside its data, so that a flood of single bytes is bounded too."""

ABANDON_S = 0.5
"""A cancelled operation does not wait longer for its journal."""

Waiting = JournalEntry | Piece | asyncio.Event | None
"""What the writer takes: something to write, whom to tell that all before is written, the end."""


class OperationJournal:
    """The journal of one attempt; an async context manager that owns the writing task."""

    def __init__(
        self, journal: Journal, clock: Clock, operation_id: UUID, outages: Outages
    ) -> None:
        self._journal = journal
        self._outages = outages
        self._clock = clock
        self._operation_id = operation_id
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue(WAITING_MAX)
        self._digest = hashlib.sha256()
        self._next_number = 0
        self._writer: asyncio.Task[None] | None = None
        self._stream_bytes = 0
        self._is_full = False
        self._is_open = False  # init is there and shutdown is not
        self._wrote_s = 0.0
        self._writing_since: float | None = None

    @property
    def writing_s(self) -> float:
        """How long writing has taken so far; the guest may have had to wait for all of that."""
        since = self._writing_since
        return self._wrote_s + (0.0 if since is None else _now_s() - since)

    async def __aenter__(self) -> Self:
        self._next_number = await self._outages.waited_out(
            self._what, partial(self._journal.restart, self._operation_id), on=LOG_AWAY
        )
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    async def finish(self) -> str:
        """Wait until everything is written; return the digest (hex) of the journal.

        The digest is SHA-256 over the lines of its entries (app.journal_lines), and so that of the
        packed journal. Raises what the journal raised.
        """
        if self._writer is not None:
            if not self._writer.done():
                await self._put(None)
            await self._writer
        return self._digest.hexdigest()

    async def abandon(self) -> None:
        """Write what was seen until the attempt was cancelled, as far as ABANDON_S allows."""
        with suppress(TimeoutError, UnavailableError):
            async with asyncio.timeout(ABANDON_S):
                if self._is_open:
                    await self.ended("signal")
                await self.finish()

    async def flush(self) -> None:
        """Wait until all that came before can be read. Raises what the journal raised."""
        if self._writer is None:
            return
        written = asyncio.Event()
        await self._put(written)
        waiting = asyncio.create_task(written.wait())
        await asyncio.wait({waiting, self._writer}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not written.is_set():
            await self._writer

    async def began(self, info: GuestInfo, *, hostname: str) -> None:
        self._is_open = True
        await self._entry(
            "init",
            0,
            {
                "started_at": info.started_at.isoformat(),
                "runtime_path": "/init",
                "verbose": False,
                "init_pid": info.init_pid,
                "hostname": hostname,
                "kernel": info.kernel,
                "machine": info.machine,
                "boot_id": str(info.boot_id),
            },
        )

    async def spawned(self, spid: int, pid: int, spec: ProcessSpec, *, shell: bool) -> None:
        await self._entry(
            "spawn",
            spid,
            {
                "pid": pid,
                "command": spec.argv[0],
                "args": list(spec.argv[1:]),
                "shell": shell,
                "cwd": spec.cwd,
                "uid": spec.uid,
                "gid": spec.gid,
                "timeout": spec.timeout_ms // 1000,
                "truncate_at": spec.output_bytes_max,
                "env": masked(spec.env, spec.secret_env),
            },
        )

    async def observed(self, event: ProcessEvent) -> None:
        """Write what a process did."""
        if isinstance(event, Output):
            await self._stream(event.stream.value, event.spid, event.data)
        elif isinstance(event, Truncated):
            await self.truncated(
                event.spid,
                event.stream.value,
                emitted_bytes=event.emitted_bytes,
                dropped_bytes=event.dropped_bytes,
            )
        else:
            await self._entry("exit", event.spid, _exit_data(event))

    async def fed(self, spid: int, data: bytes) -> None:
        """Write what a process was given on its standard input."""
        await self._stream("stdin", spid, data)

    async def truncated(
        self, spid: int, stream: str, *, emitted_bytes: int, dropped_bytes: int
    ) -> None:
        """Write that a stream passed its cap."""
        data = {"stream": stream, "bytes_emitted": emitted_bytes, "bytes_dropped": dropped_bytes}
        await self._entry("truncated", spid, data)

    async def ended(self, reason: str) -> None:
        """`reason`: job_complete, timeout, spawn_failed or signal."""
        self._is_open = False
        stopped_at = self._clock.now().isoformat()
        await self._entry("shutdown", 0, {"stopped_at": stopped_at, "reason": reason})

    async def _stream(self, type_: str, spid: int, data: bytes) -> None:
        await self._put(Piece(at=self._clock.now(), type=type_, spid=spid, data=data))

    async def _entry(self, type_: str, spid: int, data: Mapping[str, Any]) -> None:
        await self._put(JournalEntry(at=self._clock.now(), type=type_, spid=spid, data=data))

    async def _put(self, what: Waiting) -> None:
        """Queue it when there is room. Raises what ended the writer, also while waiting for it."""
        if self._writer is not None and self._writer.done():
            await self._writer
        if self._writer is None or not self._waiting.full():
            await self._waiting.put(what)
            return
        putting = asyncio.create_task(self._waiting.put(what))
        try:
            await asyncio.wait({putting, self._writer}, return_when=asyncio.FIRST_COMPLETED)
            if not putting.done():
                await self._writer
        finally:
            putting.cancel()

    async def _write(self) -> None:
        ended = False
        while not ended:
            batch: list[JournalEntry | Piece] = []
            written: list[asyncio.Event] = []
            taken = await self._waiting.get()
            while True:
                if taken is None:
                    ended = True
                elif isinstance(taken, asyncio.Event):
                    written.append(taken)
                else:
                    batch.append(taken)
                if ended or len(batch) >= BATCH_MAX or self._waiting.empty():
                    break
                taken = self._waiting.get_nowait()
            entries = [entry for what in joined(batch) for entry in self._shown(what)]
            if entries:
                for number, entry in enumerate(entries, start=self._next_number):
                    self._digest.update(line_of(NumberedEntry(number=number, entry=entry)))
                self._next_number += len(entries)
                await self._append(entries)
            for event in written:
                event.set()

    async def _append(self, entries: Sequence[JournalEntry]) -> None:
        self._writing_since = _now_s()
        await self._outages.waited_out(
            self._what, partial(self._journal.append, self._operation_id, entries), on=LOG_AWAY
        )
        self._wrote_s, self._writing_since = self.writing_s, None

    @property
    def _what(self) -> str:
        return f"the journal of operation {self._operation_id}"

    def _shown(self, what: JournalEntry | Piece) -> Iterator[JournalEntry]:
        """Yield the entry of a piece, unless the journal is full; say once that it is."""
        if isinstance(what, JournalEntry):
            yield what
            return
        if self._is_full:
            return
        value, encoding = represent(what.data)
        cost_bytes = len(value) + ENTRY_COST_BYTES
        if self._stream_bytes + cost_bytes > JOURNAL_BYTES_MAX:
            self._is_full = True
            fact = {"limit_bytes": JOURNAL_BYTES_MAX, "file_size": self._stream_bytes}
            yield JournalEntry(at=what.at, type="size_cap", spid=0, data=fact)
            return
        self._stream_bytes += cost_bytes
        data = {"value": value, "encoding": encoding, "truncated": False}
        yield JournalEntry(at=what.at, type=what.type, spid=what.spid, data=data)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _exit_data(event: Exited) -> dict[str, Any]:
    data: dict[str, Any] = {
        "pid": event.pid,
        "code": event.exit_code,
        "signal": event.signal,
        "timed_out": event.timed_out,
        "oom_killed": event.oom_killed,
        "duration_ms": event.duration_us // 1000,
        "resources": {name: getattr(event.usage, name) for name in ResourceUsage.__slots__},
    }
    if event.core_dumped:
        data["core_dump"] = True
    return data
