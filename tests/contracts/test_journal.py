"""The Journal contract, on the fake and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from contree.adapters.postgres.journal import APPEND, PostgresJournal
from contree.app.journal import Journal, JournalEntry
from contree.domain.errors import ConflictError, UnavailableError
from tests.fakes.clock import EPOCH, FakeIds
from tests.fakes.journal import FakeJournal

IDS = FakeIds(space=2)


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def journal(request: pytest.FixtureRequest) -> Journal:
    if request.param == "fake":
        return FakeJournal()
    return PostgresJournal(request.getfixturevalue("postgres_pool"))


def an_entry(number: int) -> JournalEntry:
    return JournalEntry(
        at=EPOCH + timedelta(microseconds=number),
        type="stdout",
        spid=1,
        data={"value": f"\0 \u00fc {number}", "nested": {"list": [1, None, 2.5]}},
    )


async def test_entries_come_back_in_order_numbered_from_zero(journal: Journal) -> None:
    operation_id = IDS.new_id()
    entries = [an_entry(n) for n in range(5)]
    await journal.append(operation_id, entries[:2])
    await journal.append(operation_id, entries[2:])
    read = await journal.read(operation_id)
    assert [e.number for e in read] == [0, 1, 2, 3, 4]
    assert [e.entry for e in read] == entries


async def test_journals_are_apart(journal: Journal) -> None:
    one, other = IDS.new_id(), IDS.new_id()
    await journal.append(one, [an_entry(0)])
    await journal.append(other, [an_entry(1)])
    assert [e.entry for e in await journal.read(one)] == [an_entry(0)]


async def test_reading_goes_on_after_a_number(journal: Journal) -> None:
    operation_id = IDS.new_id()
    await journal.append(operation_id, [an_entry(n) for n in range(5)])
    assert [e.number for e in await journal.read(operation_id, after=0, limit=2)] == [1, 2]
    assert await journal.read(operation_id, after=4) == []


async def test_a_restart_forgets_the_entries_but_not_the_numbers(journal: Journal) -> None:
    operation_id = IDS.new_id()
    await journal.append(operation_id, [an_entry(0), an_entry(1)])
    await journal.restart(operation_id)
    assert await journal.read(operation_id) == []
    await journal.append(operation_id, [an_entry(2)])
    [entry] = await journal.read(operation_id)
    assert (entry.number > 1, entry.entry) == (True, an_entry(2))


async def test_an_unknown_journal_is_empty_and_may_be_restarted(journal: Journal) -> None:
    operation_id = IDS.new_id()
    await journal.restart(operation_id)
    await journal.append(operation_id, [])
    assert await journal.read(operation_id) == []


async def test_the_entries_of_one_process_can_be_read_alone(journal: Journal) -> None:
    operation_id = IDS.new_id()
    await journal.append(operation_id, [replace(an_entry(n), spid=n % 3) for n in range(9)])
    assert [e.number for e in await journal.read(operation_id, spid=1)] == [1, 4, 7]
    assert [e.number for e in await journal.read(operation_id, spid=2, after=2, limit=1)] == [5]
    assert await journal.read(operation_id, spid=7) == []


async def test_the_next_number_is_above_all_that_were_ever_shown(journal: Journal) -> None:
    operation_id = IDS.new_id()
    assert await journal.next_number(operation_id) == 0
    await journal.append(operation_id, [an_entry(0), an_entry(1)])
    assert await journal.next_number(operation_id) == 2
    await journal.restart(operation_id)
    assert await journal.next_number(operation_id) >= 2


async def test_the_first_attempt_begins_at_zero(journal: Journal) -> None:
    operation_id = IDS.new_id()
    await journal.restart(operation_id)
    for number in range(3):
        await journal.append(operation_id, [an_entry(number)])
    assert [e.number for e in await journal.read(operation_id)] == [0, 1, 2]


@pytest.mark.parametrize("has_written", [False, True])
async def test_a_writer_whose_journal_was_restarted_elsewhere_is_refused(
    journal: Journal, has_written: bool, request: pytest.FixtureRequest
) -> None:
    """A worker that was only stopped for a while must not write into the next attempt's journal."""
    successor: Journal
    if isinstance(journal, FakeJournal):
        successor = journal.another()
    else:
        successor = PostgresJournal(request.getfixturevalue("postgres_pool"))
    operation_id = IDS.new_id()
    await journal.restart(operation_id)
    if has_written:
        await journal.append(operation_id, [an_entry(0)])
    await successor.restart(operation_id)
    with pytest.raises(ConflictError):
        await journal.append(operation_id, [an_entry(1)])
    await successor.append(operation_id, [an_entry(2)])
    with pytest.raises(ConflictError):
        await journal.append(operation_id, [an_entry(3)])
    await successor.append(operation_id, [an_entry(4)])
    read = await journal.read(operation_id)
    assert [e.entry for e in read] == [an_entry(2), an_entry(4)]


class LosesAnswers:
    """A pool of which the answer to each first APPEND is lost, `done` or not."""

    def __init__(self, pool: asyncpg.Pool, *, done: bool) -> None:
        self._pool = pool
        self._done = done
        self.loses = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        if statement != APPEND or not self.loses:
            return await self._pool.fetchval(statement, *arguments)
        self.loses = False
        if self._done:
            await self._pool.fetchval(statement, *arguments)
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle")


@pytest.mark.postgres
@pytest.mark.parametrize("done", [True, False])
async def test_an_append_whose_answer_was_lost_is_there_once_when_it_is_repeated(
    done: bool, postgres_pool: asyncpg.Pool
) -> None:
    pool, operation_id = LosesAnswers(postgres_pool, done=done), IDS.new_id()
    journal = PostgresJournal(pool)
    await journal.restart(operation_id)
    batches = [[an_entry(0)], [an_entry(1), an_entry(2)], [an_entry(3)]]
    for batch in batches:
        pool.loses = True
        with pytest.raises(UnavailableError):
            await journal.append(operation_id, batch)
        await journal.append(operation_id, batch)
    read = await journal.read(operation_id)
    assert [e.number for e in read] == [0, 1, 2, 3]
    assert [e.entry for e in read] == [an_entry(n) for n in range(4)]


@pytest.mark.postgres
@pytest.mark.parametrize("done", [True, False])
async def test_a_writer_whose_answer_was_lost_is_refused_when_the_journal_was_restarted(
    done: bool, postgres_pool: asyncpg.Pool
) -> None:
    """Also when the next one has written as many entries by then."""
    pool, operation_id = LosesAnswers(postgres_pool, done=done), IDS.new_id()
    journal, successor = PostgresJournal(pool), PostgresJournal(postgres_pool)
    await journal.restart(operation_id)
    pool.loses = True
    with pytest.raises(UnavailableError):
        await journal.append(operation_id, [an_entry(0), an_entry(1)])
    await successor.restart(operation_id)
    await successor.append(operation_id, [an_entry(2)])
    with pytest.raises(ConflictError):
        await journal.append(operation_id, [an_entry(0), an_entry(1)])
    assert [e.entry for e in await journal.read(operation_id)] == [an_entry(2)]
