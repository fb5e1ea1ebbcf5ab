"""The writer of one attempt's journal: what happens when the attempt is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest

from contree.app import operation_journal, outages
from contree.app.guest.microvm import GuestInfo, Output, Stream
from contree.app.journal import JournalEntry
from contree.app.operation_journal import OperationJournal
from contree.app.outages import Outages
from contree.domain.errors import UnavailableError
from tests.fakes.clock import FakeClock
from tests.fakes.journal import FakeJournal

ID = UUID(int=5)
INFO = GuestInfo(
    accelerator="none",
    kernel="0",
    machine="x86_64",
    boot_id=UUID(int=1),
    init_pid=1,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
)


class GatedJournal(FakeJournal):
    """Takes nothing before `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.is_away = False

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        await self.gate.wait()
        if self.is_away:
            raise UnavailableError("the database is away")
        await super().append(operation_id, entries)


def said(text: str) -> Output:
    return Output(spid=1, stream=Stream.STDOUT, data=text.encode())


async def types_and_text(journal: FakeJournal) -> tuple[list[str], str]:
    entries = [n.entry for n in await journal.read(ID)]
    text = "".join(e.data["value"] for e in entries if e.type == "stdout")
    return [e.type for e in entries], text


async def test_what_still_waits_is_written_when_it_is_given_up() -> None:
    store = GatedJournal()
    async with OperationJournal(store, FakeClock(), ID, Outages()) as journal:
        await journal.began(INFO, hostname="h")
        for number in range(100):
            await journal.observed(said(f"{number} "))
        leaving = asyncio.create_task(journal.abandon())
        await asyncio.sleep(0)
        store.gate.set()
        await leaving
    types, text = await types_and_text(store)
    assert types == ["init", "stdout", "shutdown"]
    assert text == "".join(f"{number} " for number in range(100))


async def test_nothing_is_told_of_an_attempt_that_never_began_or_has_ended() -> None:
    for reason in (None, "job_complete"):
        store = GatedJournal()
        store.gate.set()
        async with OperationJournal(store, FakeClock(), ID, Outages()) as journal:
            if reason is not None:
                await journal.began(INFO, hostname="h")
                await journal.ended(reason)
            await journal.abandon()
        types, _ = await types_and_text(store)
        assert types == ([] if reason is None else ["init", "shutdown"])


async def test_a_journal_that_takes_nothing_holds_up_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operation_journal, "ABANDON_S", 0.02)
    for is_away in (False, True):
        store = GatedJournal()
        store.is_away = is_away
        if is_away:
            store.gate.set()
        async with OperationJournal(store, FakeClock(), ID, Outages(within_s=0)) as journal:
            await journal.began(INFO, hostname="h")
            await journal.abandon()
        assert await types_and_text(store) == ([], "")


async def test_nobody_waits_for_room_in_a_journal_whose_writer_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operation_journal, "WAITING_MAX", 1)
    store = GatedJournal()
    store.is_away = True
    async with OperationJournal(store, FakeClock(), ID, Outages(within_s=0)) as journal:
        await journal.began(INFO, hostname="h")
        await asyncio.sleep(0)  # the writer has taken it, and waits for the journal
        await journal.observed(said("fills the queue"))
        waiting = [
            asyncio.create_task(journal.observed(said("waits"))),
            asyncio.create_task(journal.flush()),
            asyncio.create_task(journal.finish()),
        ]
        await asyncio.sleep(0)
        store.gate.set()
        async with asyncio.timeout(10):
            ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [UnavailableError] * len(waiting)


class FlakyJournal(FakeJournal):
    """Each append is refused `times` times before it is done."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self._left = times

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        if self._left:
            self._left -= 1
            raise UnavailableError("the database is away")
        self._left = self.times
        await super().append(operation_id, entries)


async def test_a_database_that_is_away_holds_output_up_and_loses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outages, "PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr(operation_journal, "WAITING_MAX", 4)
    store, numbers = FlakyJournal(3), range(200)
    async with OperationJournal(store, FakeClock(), ID, Outages()) as journal:
        await journal.began(INFO, hostname="h")
        assert journal.writing_s == 0
        for number in numbers:
            await journal.observed(said(f"{number} "))
        await journal.ended("job_complete")
        await journal.finish()
    assert journal.writing_s > 0
    types, text = await types_and_text(store)
    assert (types[0], types[-1], set(types[1:-1])) == ("init", "shutdown", {"stdout"})
    assert text == "".join(f"{number} " for number in numbers)
