"""Reads an operation's journal in pages of about equal bytes, however large its entries are.

A page is what a reader holds while its client does not read, so it is bounded in bytes; how many
entries are asked for follows from how large the last ones were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

from contree.app.journal import Journal, NumberedEntry
from contree.http.json_text import json_bytes

PAGE_BYTES_MAX = 256 * 1024
"""And one entry more."""

ENTRIES_MIN = 6
ENTRIES_MAX = 512
"""Asked for at once; more is read than is kept when they are suddenly larger."""

ENTRY_COST_BYTES = 200
"""What an entry takes beside the text of a stream."""

T = TypeVar("T")


class JournalReader:
    """One reader of one operation, or of one of its processes."""

    def __init__(self, journal: Journal, operation_id: UUID, *, spid: int | None = None) -> None:
        self._journal = journal
        self._operation_id = operation_id
        self._spid = spid
        self._limit = ENTRIES_MIN

    async def page(self, *, after: int) -> tuple[list[NumberedEntry], bool]:
        """Return the next entries after a number, and whether there may be more of them now."""
        limit = self._limit
        found = await self._journal.read(
            self._operation_id, after=after, limit=limit, spid=self._spid
        )
        page = page_of(found, _size_bytes)
        if page:
            fitting = PAGE_BYTES_MAX * len(page) // sum(map(_size_bytes, page))
            self._limit = max(ENTRIES_MIN, min(fitting, 2 * limit, ENTRIES_MAX))
        return page, len(found) == limit or len(page) < len(found)


def page_of(items: Iterable[T], size_bytes: Callable[[T], int]) -> list[T]:
    """Return the first of `items`, as many as make a page."""
    page: list[T] = []
    total_bytes = 0
    for item in items:
        page.append(item)
        total_bytes += size_bytes(item)
        if total_bytes >= PAGE_BYTES_MAX:
            break
    return page


def _size_bytes(numbered: NumberedEntry) -> int:
    data = numbered.entry.data
    # A stream's text is nearly all of its entry; a `spawn` has arguments and environment.
    return ENTRY_COST_BYTES + len(data["value"] if "value" in data else json_bytes(data))
