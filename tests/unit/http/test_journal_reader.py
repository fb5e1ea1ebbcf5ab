"""Pages of a journal are bounded in bytes, whatever its entries are, and miss nothing."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest

from contree.app.journal import JournalEntry, NumberedEntry
from contree.http.execution.event_frames import frame_of
from contree.http.execution.journal_reader import ENTRIES_MAX, PAGE_BYTES_MAX, JournalReader
from tests.fakes.clock import EPOCH
from tests.fakes.journal import FakeJournal

ID = UUID(int=7)
LARGE, SMALL = 44_000, 10
FRAME_BYTES_MAX = LARGE + 1000


class CountingJournal(FakeJournal):
    """Notes how many entries each read was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    async def read(
        self, operation_id: UUID, *, after: int = -1, limit: int = 1000, spid: int | None = None
    ) -> Sequence[NumberedEntry]:
        self.limits.append(limit)
        return await super().read(operation_id, after=after, limit=limit, spid=spid)


async def a_journal(sizes: Sequence[int]) -> CountingJournal:
    journal = CountingJournal()
    entries = [
        JournalEntry(at=EPOCH, type="stdout", spid=1, data={"value": "x" * size}) for size in sizes
    ]
    await journal.append(ID, entries)
    return journal


@pytest.mark.parametrize(
    "sizes",
    [
        [SMALL] * 3000,
        [LARGE] * 200,
        [*[SMALL] * 3000, *[LARGE] * 100] * 2,
        [SMALL, LARGE] * 200,
        [SMALL] * 6,  # just what is asked for first
        [],
    ],
)
async def test_pages_are_bounded_and_together_the_whole(sizes: list[int]) -> None:
    journal = await a_journal(sizes)
    reader, after, more = JournalReader(journal, ID), -1, True
    numbers: list[int] = []
    while more:
        entries, more = await reader.page(after=after)
        frames = [frame_of(entry) for entry in entries]
        assert sum(len(frame.data) for frame in frames) < PAGE_BYTES_MAX + FRAME_BYTES_MAX
        numbers += [frame.number for frame in frames]
        after = numbers[-1] if numbers else after
    assert numbers == list(range(len(sizes)))
    assert max(journal.limits) <= ENTRIES_MAX


async def test_small_entries_need_few_reads_and_large_ones_are_not_read_in_vain() -> None:
    for size, reads_max, read_max in ((SMALL, 15, 5000), (LARGE, 100, 600)):
        journal = await a_journal([size] * 500)
        reader, after, more = JournalReader(journal, ID), -1, True
        while more:
            entries, more = await reader.page(after=after)
            after = entries[-1].number
        assert len(journal.limits) <= reads_max
        assert sum(journal.limits) <= read_max


async def test_a_start_counts_with_its_arguments() -> None:
    journal = CountingJournal()
    arguments = {"args": ["x" * PAGE_BYTES_MAX]}
    entries = [JournalEntry(at=EPOCH, type="spawn", spid=2, data=arguments) for _ in range(4)]
    await journal.append(ID, entries)
    page, more = await JournalReader(journal, ID).page(after=-1)
    assert (len(page), more) == (1, True)
