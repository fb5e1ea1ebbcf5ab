"""Reads an operation's frames from its journal in pages of about equal bytes.

A page is what a reader holds while its client does not read, so it is bounded in bytes; how many
entries are asked for follows from how large the last ones were.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from contree.app.journal import Journal
from contree.http.event_frames import Frame, frame_of

PAGE_BYTES_MAX = 256 * 1024
"""And one frame more."""

ENTRIES_MIN = 6
ENTRIES_MAX = 512
"""Asked for at once; more is read than is kept when they are suddenly larger."""


class FrameReader:
    """One reader of one operation."""

    def __init__(self, journal: Journal, operation_id: UUID) -> None:
        self._journal = journal
        self._operation_id = operation_id
        self._limit = ENTRIES_MIN

    async def page(self, *, after: int) -> tuple[list[Frame], bool]:
        """Return the next frames after a number, and whether there may be more of them now."""
        limit = self._limit
        entries = await self._journal.read(self._operation_id, after=after, limit=limit)
        frames = page_of(frame_of(entry) for entry in entries)
        if frames:
            fitting = PAGE_BYTES_MAX * len(frames) // sum(len(frame.data) for frame in frames)
            self._limit = max(ENTRIES_MIN, min(fitting, 2 * limit, ENTRIES_MAX))
        return frames, len(entries) == limit or len(frames) < len(entries)


def page_of(frames: Iterable[Frame]) -> list[Frame]:
    """Return the first of `frames`, as many as make a page."""
    page: list[Frame] = []
    size_bytes = 0
    for frame in frames:
        page.append(frame)
        size_bytes += len(frame.data)
        if size_bytes >= PAGE_BYTES_MAX:
            break
    return page
