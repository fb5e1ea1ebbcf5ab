"""Pack the journals of operations that have ended: into one content each, then their rows go.

The content is durable before the rows go, and it is the same however often it is made. So this may
be killed anywhere: what was half packed is packed again. ADR 21.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final
from uuid import UUID

from contree.app.clock import Clock
from contree.app.content.journal_packs import EndedJournal, JournalPacks, Pack
from contree.app.content.project_content import Content, ProjectContent
from contree.app.journal import Journal
from contree.app.journal_lines import line_of
from contree.domain.errors import ContentDamagedError, ContentErasedError, NotFoundError

LOOK_AGAIN_S: Final = 2.0
BATCH_JOURNALS: Final = 100
AT_ONCE_MAX: Final = 4

ENTRIES_AT_ONCE: Final = 128
"""Held at a time, of about 32 KiB at most (app.journal_pieces)."""

PACK_BYTES_MAX: Final = 1 << 40
"""No bound: the writer of a journal has one (app.operation_journal)."""

NOTHING: Final = Content(sha256=hashlib.sha256().hexdigest(), size_bytes=0)

log = logging.getLogger(__name__)


class PackJournals:
    """A worker's duty (worker.duties). `journal` is the one that has the rows, opened."""

    name = "pack journals"

    def __init__(
        self, *, journal: Journal, packs: JournalPacks, content: ProjectContent, clock: Clock
    ) -> None:
        self._journal = journal
        self._packs = packs
        self._content = content
        self._clock = clock
        self._refused: set[UUID] = set()

    async def run(self) -> None:
        """Pack what has ended, again and again. Raises as `pack`."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def look(self) -> None:
        """Pack what has ended by now; one that cannot be read does not hold up the others."""
        after: UUID | None = None
        while batch := await self._packs.ended(after=after, limit=BATCH_JOURNALS):
            room = asyncio.Semaphore(AT_ONCE_MAX)
            attempts = [self._attempt(ended, room) for ended in batch]
            for failure in await asyncio.gather(*attempts, return_exceptions=True):
                if failure is not None:
                    raise failure
            after = batch[-1].operation_id

    async def _attempt(self, ended: EndedJournal, room: asyncio.Semaphore) -> None:
        async with room:
            try:
                await self.pack(ended)
            except ContentErasedError:
                pass  # erasure lets the rows go
            except (ContentDamagedError, NotFoundError) as error:
                if ended.operation_id not in self._refused:
                    self._refused.add(ended.operation_id)
                    log.warning("the journal of operation %s: %s", ended.operation_id, error)

    async def pack(self, ended: EndedJournal) -> None:
        """Pack one journal.

        Raises StorageFullError and UnavailableError, and ContentErasedError or ContentDamagedError
        when its entries open no more.
        """
        packed = await self._stored(ended)
        if ended.sha256 not in {None, packed.sha256}:
            # It is kept as it is, under its own digest: whoever compares with the log sees it.
            log.error(
                "the journal of operation %s has the digest %s, and in the log %s",
                ended.operation_id,
                packed.sha256,
                ended.sha256,
            )
        pack = Pack(project_id=ended.project_id, sha256=packed.sha256, size_bytes=packed.size_bytes)
        if not await self._packs.settle(ended, pack) and packed.size_bytes:
            await self._undo(ended, pack)

    async def _stored(self, ended: EndedJournal) -> Content:
        if not await self._journal.read(ended.operation_id, limit=1):
            return NOTHING
        return await self._content.put(
            ended.project_id, self._lines(ended.operation_id), bytes_max=PACK_BYTES_MAX
        )

    async def _undo(self, ended: EndedJournal, pack: Pack) -> None:
        """Remove what was put, unless another process has packed it meanwhile."""
        if await self._packs.pack_of(ended.operation_id) != pack:
            put_before = self._clock.now() + timedelta(minutes=1)
            await self._content.remove(pack.project_id, pack.sha256, put_before=put_before)

    async def _lines(self, operation_id: UUID) -> AsyncIterator[bytes]:
        after = -1
        while entries := await self._journal.read(operation_id, after=after, limit=ENTRIES_AT_ONCE):
            yield b"".join(map(line_of, entries))
            after = entries[-1].number
