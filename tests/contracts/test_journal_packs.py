"""Packed journals read as they did: on fakes; on PostgreSQL with real ciphers and a directory.

The contract of `Journal` itself is in test_journal.py.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contree.adapters.blobs.directory_blobs import DirectoryBlobStore
from contree.adapters.postgres.content_index import PostgresContentIndex
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.journal import PostgresJournal
from contree.adapters.postgres.journal_packs import PostgresJournalPacks
from contree.adapters.system.project_cipher import AesCiphers
from contree.app.content import packed_journal
from contree.app.content.content_index import ContentIndex
from contree.app.content.journal_packs import JournalPacks
from contree.app.content.pack_journals import PackJournals
from contree.app.content.packed_journal import PackedJournal
from contree.app.content.project_content import Content, ProjectContent
from contree.app.content.project_journal import ProjectJournal
from contree.app.event_log import EventLog
from contree.app.journal import Journal, JournalEntry, NumberedEntry
from contree.app.journal_lines import line_of
from contree.domain.errors import ConflictError
from contree.domain.operation import Operation
from contree.projections import ALL
from tests.fakes.blob_store import FakeBlobStore
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.fakes.content_index import FakeContentIndex
from tests.fakes.event_log import FakeEventLog
from tests.fakes.journal import FakeJournal
from tests.fakes.project_keys import FakeProjectKeys
from tests.support.histories import a_spec, an_outcome, context_at

IDS = FakeIds(space=0x9AC)
PROJECT, IMAGE = IDS.new_id(), IDS.new_id()


class Projects:
    async def project_of(self, operation_id: UUID) -> UUID | None:
        return PROJECT if operation_id else None


class AesKeys(FakeProjectKeys):
    def __init__(self, log: FakeEventLog) -> None:
        super().__init__(log)
        self._ciphers: Any = AesCiphers()


class Setting:
    """A log, a journal, and what packs it. `journal` is what readers have, `rows` the entries."""

    def __init__(
        self,
        *,
        log: EventLog,
        entries: Journal,
        packs: JournalPacks,
        index: ContentIndex,
        keys: FakeProjectKeys,
        blobs: Any,
    ) -> None:
        self.log = log
        self.packs = packs
        self.index = index
        self.rows = ProjectJournal(entries, keys=keys, operations=Projects())
        self.content = ProjectContent(keys=keys, blobs=blobs)
        self.journal = PackedJournal(self.rows, packs=packs, content=self.content)
        self.packing = self.packer()

    def packer(
        self, *, packs: JournalPacks | None = None, content: ProjectContent | None = None
    ) -> PackJournals:
        return PackJournals(
            journal=self.rows,
            packs=packs or self.packs,
            content=content or self.content,
            clock=FakeClock(EPOCH + timedelta(days=40_000)),
        )

    async def operation(self) -> Operation:
        context = context_at(FakeClock(), PROJECT)
        operation = Operation.request_instance(
            context, operation_id=IDS.new_id(), spec=a_spec(IMAGE)
        )
        operation.assign(context, worker="w", lease_until=context.at)
        await self.log.append(operation)
        return operation

    async def end(self, operation: Operation, *, sha256: str | None = None) -> None:
        operation.succeed(
            context_at(FakeClock(), PROJECT),
            result_image_id=None,
            outcome=an_outcome(),
            journal_sha256=sha256,
        )
        await self.log.append(operation)

    async def ran(self, entries: Sequence[JournalEntry]) -> Operation:
        """An operation of two attempts that has ended, with `entries` of the second."""
        operation = await self.operation()
        await self.journal.restart(operation.id)
        await self.journal.append(operation.id, [an_entry(0)])
        number = await self.journal.restart(operation.id)
        for at in range(0, len(entries), 50):
            await self.journal.append(operation.id, entries[at : at + 50])
        numbered = [NumberedEntry(number=n, entry=e) for n, e in enumerate(entries, start=number)]
        await self.end(
            operation, sha256=hashlib.sha256(b"".join(map(line_of, numbered))).hexdigest()
        )
        return operation


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Setting:
    if request.param == "fake":
        log = FakeEventLog()
        journal = FakeJournal(log)
        return Setting(
            log=log,
            entries=journal,
            packs=journal,
            index=FakeContentIndex(log, journal),
            keys=FakeProjectKeys(log),
            blobs=FakeBlobStore(),
        )
    pool = request.getfixturevalue("postgres_pool")
    return Setting(
        log=PostgresEventLog(pool, ALL),
        entries=PostgresJournal(pool),
        packs=PostgresJournalPacks(pool),
        index=PostgresContentIndex(pool),
        keys=AesKeys(FakeEventLog()),
        blobs=DirectoryBlobStore(tmp_path / "content"),
    )


def an_entry(number: int, *, size: int = 10) -> JournalEntry:
    return JournalEntry(
        at=EPOCH + timedelta(microseconds=number),
        type="stdout",
        spid=number % 3,
        data={"value": f"\0 \u00fc \n {number} " + "x" * size, "list": [1, None, 2.5]},
    )


SMALL = [an_entry(n) for n in range(7)]
LARGE = [an_entry(n, size=n * 37 % 3000) for n in range(400)]


async def all_reads(journal: Journal, operation_id: UUID) -> list[Sequence[NumberedEntry]]:
    last = await journal.next_number(operation_id)
    return [
        await journal.read(operation_id, after=after, limit=limit, spid=spid)
        for after in (-1, 0, 1, 2, 5, last // 2, last - 2, last - 1, last, last + 9, 3)
        for limit in (1, 4, 1000)
        for spid in (None, 0, 2, 77)
    ]


@pytest.mark.parametrize("entries", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("scan_bytes", [packed_journal.SCAN_BYTES, 4000])
async def test_a_packed_journal_reads_as_it_did(
    setting: Setting,
    entries: list[JournalEntry],
    scan_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_journal, "SCAN_BYTES", scan_bytes)
    operation = await setting.ran(entries)
    before = await all_reads(setting.journal, operation.id)
    number = await setting.journal.next_number(operation.id)
    assert [e.entry for e in await setting.journal.read(operation.id)] == entries
    await setting.packing.look()
    assert await setting.rows.read(operation.id) == []
    assert await all_reads(setting.journal, operation.id) == before
    assert await setting.journal.next_number(operation.id) == number


async def test_the_pack_is_the_content_whose_digest_the_log_has(setting: Setting) -> None:
    operation = await setting.ran(LARGE)
    [ended] = [e for e in await setting.packs.ended(limit=9) if e.operation_id == operation.id]
    await setting.packing.look()
    pack = await setting.packs.pack_of(operation.id)
    assert pack is not None
    assert pack.sha256 == ended.sha256
    text = await setting.content.read_bytes(PROJECT, pack.sha256)
    assert text == b"".join(map(line_of, await setting.journal.read(operation.id)))
    assert len(text) == pack.size_bytes


async def test_a_reader_between_two_pages_misses_nothing_when_it_is_packed(
    setting: Setting,
) -> None:
    operation = await setting.ran(LARGE)
    shown = list(await setting.journal.read(operation.id, limit=150))
    await setting.packing.look()
    while page := await setting.journal.read(operation.id, after=shown[-1].number, limit=100):
        shown += page
    assert [one.entry for one in shown] == LARGE


async def test_reading_on_costs_what_is_read_and_not_the_way_there(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await setting.ran(LARGE)
    await setting.packing.look()
    lines = 0
    number_of = packed_journal.number_of

    def counted(line: bytes) -> int:
        nonlocal lines
        lines += 1
        return number_of(line)

    monkeypatch.setattr(packed_journal, "number_of", counted)
    monkeypatch.setattr(packed_journal, "SCAN_BYTES", 20_000)
    after = -1
    while page := await setting.journal.read(operation.id, after=after, limit=10):
        after = page[-1].number
    assert lines < 3 * len(LARGE)


async def test_what_has_not_ended_is_not_packed(setting: Setting) -> None:
    operation = await setting.operation()
    await setting.journal.restart(operation.id)
    await setting.journal.append(operation.id, SMALL)
    await setting.packing.look()
    assert [e.entry for e in await setting.rows.read(operation.id)] == SMALL
    await setting.end(operation)
    await setting.packing.look()
    assert await setting.rows.read(operation.id) == []
    assert [e.entry for e in await setting.journal.read(operation.id)] == SMALL


async def test_a_journal_without_entries_is_packed_without_content(setting: Setting) -> None:
    operation = await setting.operation()
    await setting.journal.restart(operation.id)
    await setting.end(operation)
    await setting.packing.look()
    assert await setting.packs.ended(limit=9) == []
    assert await setting.journal.read(operation.id) == []
    assert await setting.journal.forget([operation.id]) == 0


async def test_nobody_writes_into_a_packed_journal(setting: Setting) -> None:
    operation = await setting.ran(SMALL)
    await setting.packing.look()
    with pytest.raises(ConflictError):
        await setting.journal.append(operation.id, [an_entry(99)])
    with pytest.raises(ConflictError):
        await setting.journal.restart(operation.id)
    assert [e.entry for e in await setting.journal.read(operation.id)] == SMALL


class Killed(BaseException):
    """The process ends here."""


class Dies:
    """Passes calls on to `to`; dies at `method`, before or after it was done."""

    def __init__(self, to: Any, method: str, *, done: bool) -> None:
        self._to = to
        self._method = method
        self._done = done

    def __getattr__(self, name: str) -> Callable[..., Any]:
        attribute: Callable[..., Any] = getattr(self._to, name)
        if name != self._method:
            return attribute

        async def dying(*arguments: Any, **options: Any) -> None:
            if self._done:
                await attribute(*arguments, **options)
            raise Killed

        return dying


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("method", ["ended", "put", "settle"])
async def test_what_was_killed_while_it_packed_is_packed_again(
    setting: Setting, method: str, done: bool
) -> None:
    operation = await setting.ran(SMALL)
    packs: Any = Dies(setting.packs, method, done=done)
    content: Any = Dies(setting.content, method, done=done)
    with pytest.raises(Killed):
        await setting.packer(packs=packs, content=content).look()
    assert [e.entry for e in await setting.journal.read(operation.id)] == SMALL
    await setting.packing.look()
    assert await setting.rows.read(operation.id) == []
    assert [e.entry for e in await setting.journal.read(operation.id)] == SMALL
    assert await setting.packs.ended(limit=9) == []


class WrittenMeanwhile(ProjectContent):
    """Before content is put, `meanwhile` happens."""

    def __init__(self, to: ProjectContent, meanwhile: Callable[[], Any]) -> None:
        super().__init__(keys=to._keys, blobs=to._blobs)
        self._meanwhile = meanwhile
        self.stored: Content | None = None

    async def put(self, *arguments: Any, **options: Any) -> Content:
        self.stored = await super().put(*arguments, **options)
        await self._meanwhile()
        return self.stored


async def test_what_a_lost_writer_adds_meanwhile_is_packed_too(setting: Setting) -> None:
    operation = await setting.ran(SMALL)
    late = an_entry(99)
    content = WrittenMeanwhile(setting.content, lambda: setting.rows.append(operation.id, [late]))
    await setting.packer(content=content).look()
    assert content.stored is not None
    assert not await setting.content.has(PROJECT, content.stored.sha256), "nobody would find it"
    assert [e.entry for e in await setting.journal.read(operation.id)] == [*SMALL, late]
    await setting.packing.look()
    assert await setting.rows.read(operation.id) == []
    assert [e.entry for e in await setting.journal.read(operation.id)] == [*SMALL, late]


async def test_two_that_pack_the_same_do_not_undo_each_other(setting: Setting) -> None:
    operation = await setting.ran(SMALL)
    content = WrittenMeanwhile(setting.content, setting.packing.look)
    await setting.packer(content=content).look()
    assert [e.entry for e in await setting.journal.read(operation.id)] == SMALL


async def test_a_journal_that_the_log_knows_otherwise_is_kept_and_told(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    operation = await setting.operation()
    await setting.journal.restart(operation.id)
    await setting.journal.append(operation.id, SMALL)
    await setting.end(operation, sha256="0" * 64)
    await setting.packing.look()
    assert [e.entry for e in await setting.journal.read(operation.id)] == SMALL
    pack = await setting.packs.pack_of(operation.id)
    assert pack is not None
    [told] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert str(operation.id) in told
    assert pack.sha256 in told
    assert "0" * 64 in told


async def test_forgetting_is_counted_once_and_leaves_the_digest_to_be_removed(
    setting: Setting,
) -> None:
    packed, other = await setting.ran(SMALL), await setting.ran(LARGE)
    before = await setting.index.ended(PROJECT, limit=9)
    assert [one.is_unpacked for one in before] == [True, True]
    await setting.packing.look()
    pack = await setting.packs.pack_of(packed.id)
    assert pack is not None
    for count in (1, 0):
        assert await setting.journal.forget([packed.id]) == count
        assert await setting.journal.read(packed.id) == []
        assert await setting.packs.pack_of(packed.id) is None
        [found] = [
            one
            for one in await setting.index.ended(PROJECT, limit=9)
            if one.operation_id == packed.id
        ]
        assert (found.is_unpacked, pack.sha256 in found.digests) == (False, True)
    assert [e.entry for e in await setting.journal.read(other.id)] == LARGE


async def test_a_journal_that_is_forgotten_before_it_is_packed_stays_so(setting: Setting) -> None:
    operation = await setting.ran(SMALL)
    content = WrittenMeanwhile(setting.content, lambda: setting.rows.forget([operation.id]))
    await setting.packer(content=content).look()
    assert await setting.packs.ended(limit=9) == []
    assert await setting.journal.read(operation.id) == []
    assert content.stored is not None
    assert not await setting.content.has(PROJECT, content.stored.sha256)
