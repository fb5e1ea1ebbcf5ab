"""Journals of which those that have ended are packed (app.journal.Journal); it looks the same.

A pack is the lines of the entries (app.journal_lines), in their order. Numbers rise, so the place
of one is found by bisection and no index is kept; where the last reader of a journal was is
remembered, so that whoever reads on begins there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final
from uuid import UUID

from contree.app.content.journal_packs import JournalPacks, Pack
from contree.app.content.project_content import ProjectContent
from contree.app.journal import Journal, JournalEntry, NumberedEntry
from contree.app.journal_lines import entry_of, number_of
from contree.domain.errors import NotFoundError

SCAN_BYTES: Final = 256 * 1024
"""Bisection ends here; it costs no more to read that much than to look for a place in it."""

PLACES_MAX: Final = 1024
"""Journals of which it is known where their last reader was."""

Place = tuple[int, int]
"""Of a number and an offset: the lines from there on are those with higher numbers."""

BEGINNING: Final[Place] = (-1, 0)


class PackedJournal:
    """Implements Journal over one that holds the entries until they are packed. Also raises
    ContentErasedError and ContentDamagedError.
    """

    def __init__(self, journal: Journal, *, packs: JournalPacks, content: ProjectContent) -> None:
        self._journal = journal
        self._packs = packs
        self._content = content
        self._places: OrderedDict[UUID, tuple[Place, Place]] = OrderedDict()

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        await self._journal.append(operation_id, entries)

    async def read(
        self, operation_id: UUID, *, after: int = -1, limit: int = 1000, spid: int | None = None
    ) -> Sequence[NumberedEntry]:
        found = await self._journal.read(operation_id, after=after, limit=limit, spid=spid)
        if found:
            return found
        # They go in one step with the record of their pack: whoever sees none of them sees that.
        pack = await self._packs.pack_of(operation_id)
        if pack is None or not pack.size_bytes:
            return found
        try:
            return await self._packed(operation_id, pack, after=after, limit=limit, spid=spid)
        except NotFoundError:
            if await self._packs.pack_of(operation_id) is None:
                return found  # forgotten meanwhile
            raise

    async def next_number(self, operation_id: UUID) -> int:
        return await self._journal.next_number(operation_id)

    async def forget(self, operation_ids: Sequence[UUID]) -> int:
        return await self._journal.forget(operation_ids)

    async def restart(self, operation_id: UUID) -> int:
        return await self._journal.restart(operation_id)

    async def _packed(
        self, operation_id: UUID, pack: Pack, *, after: int, limit: int, spid: int | None
    ) -> Sequence[NumberedEntry]:
        begun = end = await self._place(operation_id, pack, after)
        found: list[NumberedEntry] = []
        async with aclosing(self._lines(pack, begun[1])) as lines:
            async for line, offset in lines:
                if len(found) >= limit:
                    break
                number = number_of(line)
                end = (number, offset + len(line))
                if number <= after:
                    begun = end
                    continue
                numbered = entry_of(line)
                if spid in {None, numbered.entry.spid}:
                    found.append(numbered)
        self._places[operation_id] = (begun, end)
        self._places.move_to_end(operation_id)
        if len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)
        return found

    async def _place(self, operation_id: UUID, pack: Pack, after: int) -> Place:
        """Return a place at or before `after`, at most SCAN_BYTES and one line before."""
        known: list[Place] = [BEGINNING, *self._places.get(operation_id, ())]
        low = max(place for place in known if place[0] <= max(after, -1))
        if low[0] == after:
            return low
        high = pack.size_bytes
        while high - low[1] > SCAN_BYTES:
            middle = (low[1] + high) // 2
            beyond = await self._first_beyond(pack, middle)
            if beyond is not None and beyond[0] <= after:
                low = beyond
            else:
                high = middle
        return low

    async def _first_beyond(self, pack: Pack, offset: int) -> Place | None:
        """Return the place behind the first line that begins beyond `offset`, None without one."""
        async with aclosing(self._lines(pack, offset)) as lines:
            is_cut = True
            async for line, begins in lines:
                if not is_cut:
                    return number_of(line), begins + len(line)
                is_cut = False
        return None

    async def _lines(self, pack: Pack, start: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """Yield lines and where they begin; the first may be the rest of one."""
        if start >= pack.size_bytes:
            return
        held, offset = b"", start
        pieces = self._content.read(pack.project_id, pack.sha256, start=start)
        async with aclosing(pieces):
            async for piece in pieces:
                *lines, held = (held + piece).split(b"\n")
                for line in lines:
                    yield line + b"\n", offset
                    offset += len(line) + 1
