"""The ContentIndex contract: the same random history, asked of the fake and of PostgreSQL."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from contree.adapters.postgres.content_index import NEEDED, PostgresContentIndex
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.app.content.content_index import ContentIndex, OperationContent
from contree.app.event_log import EventLog
from contree.domain.file import File
from contree.domain.instance import Stdin
from contree.domain.operation import Operation
from contree.domain.outcome import CapturedStream
from contree.domain.spec_body import Body
from contree.projections import ALL
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.fakes.content_index import FakeContentIndex
from tests.fakes.event_log import FakeEventLog
from tests.support.histories import History, a_spec, a_subprocess, an_outcome, context_at, digest_of

IDS = FakeIds(space=0x1D)
PROJECT, OTHER, IMAGE = IDS.new_id(), IDS.new_id(), IDS.new_id()
DIGESTS = [digest_of(f"content {n}") for n in range(6)]


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def both(request: pytest.FixtureRequest) -> tuple[EventLog, ContentIndex]:
    if request.param == "fake":
        log = FakeEventLog()
        return log, FakeContentIndex(log)
    pool = request.getfixturevalue("postgres_pool")
    return PostgresEventLog(pool, ALL), PostgresContentIndex(pool)


def a_body(sha256: str | None) -> Body | None:
    return None if sha256 is None else Body(sha256=sha256, size_bytes=1)


async def ran(
    log: EventLog,
    clock: FakeClock,
    *,
    stdout: str = DIGESTS[0],
    stdin: str | None = None,
    further_stdin: str | None = None,
    body: str | None = None,
    further_body: str | None = None,
    ends: bool = True,
    project: object = PROJECT,
) -> Operation:
    """An operation that ends a second after it began, at the clock's time then."""
    context = context_at(clock, project)
    given = None if stdin is None else Stdin(sha256=stdin, size_bytes=1)
    operation = Operation.request_instance(
        context, operation_id=IDS.new_id(), spec=a_spec(IMAGE, stdin=given, body=a_body(body))
    )
    operation.assign(context, worker="w", lease_until=context.at)
    if further_stdin is not None or further_body is not None:
        further = None if further_stdin is None else Stdin(sha256=further_stdin, size_bytes=1)
        spec = a_subprocess(stdin=further, body=a_body(further_body))
        operation.subprocess_spawned(context, spid=2, pid=9, spec=spec)
    clock.advance(1)
    if ends:
        written = CapturedStream(sha256=stdout, size_bytes=1)
        operation.succeed(
            context_at(clock, project),
            result_image_id=None,
            outcome=replace(an_outcome(), stdout=written),
        )
    await log.append(operation)
    return operation


async def test_ended_operations_come_with_all_their_content(
    both: tuple[EventLog, ContentIndex],
) -> None:
    log, index = both
    clock = FakeClock()
    one = await ran(
        log,
        clock,
        stdin=DIGESTS[1],
        further_stdin=DIGESTS[2],
        body=DIGESTS[4],
        further_body=DIGESTS[5],
    )
    await ran(log, clock, ends=False, stdin=DIGESTS[3])
    await ran(log, clock, project=OTHER, stdout=DIGESTS[3])
    (found,) = await index.ended(PROJECT, limit=10)
    assert found.operation_id == one.id
    assert found.digests == {*DIGESTS[:3], *DIGESTS[4:], digest_of("")}


async def test_the_bounds_are_on_the_end_and_the_pages_are_on_the_beginning(
    both: tuple[EventLog, ContentIndex],
) -> None:
    log, index = both
    clock = FakeClock()
    ids = [(await ran(log, clock)).id for _ in range(5)]  # they end at seconds 1 to 5
    since, before = EPOCH + timedelta(seconds=2), EPOCH + timedelta(seconds=5)
    assert await index.ended_count(PROJECT, since=since, before=before) == 3
    assert await index.ended_count(PROJECT, since=None, before=before) == 4
    pages: list[OperationContent] = []
    while page := await index.ended(
        PROJECT, since=since, before=before, after=pages[-1] if pages else None, limit=2
    ):
        assert len(page) <= 2
        pages += page
    assert [one.operation_id for one in pages] == ids[1:4]


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({}, set()),
        ({"stdout": DIGESTS[1]}, {DIGESTS[1]}),
        ({"stdin": DIGESTS[2]}, {DIGESTS[2]}),
        ({"further_stdin": DIGESTS[3]}, {DIGESTS[3]}),
        ({"body": DIGESTS[2]}, {DIGESTS[2]}),
        ({"further_body": DIGESTS[3]}, {DIGESTS[3]}),
        ({"body": DIGESTS[2], "ends": False}, {DIGESTS[2]}),
        ({"stdin": DIGESTS[2], "ends": False}, {DIGESTS[2]}),
        ({"further_stdin": DIGESTS[3], "ends": False}, {DIGESTS[3]}),
        ({"stdout": DIGESTS[1], "project": OTHER}, set()),
        ({"stdout": digest_of("not asked for")}, set()),
    ],
)
async def test_content_is_needed_by_what_has_not_expired(
    both: tuple[EventLog, ContentIndex], needs: dict[str, object], expected: set[str]
) -> None:
    log, index = both
    clock = FakeClock()
    await ran(log, clock, stdout=DIGESTS[1], stdin=DIGESTS[2], further_stdin=DIGESTS[3])
    cut = EPOCH + timedelta(seconds=1.5)
    await ran(log, clock, **needs)
    found = await index.needed(PROJECT, frozenset(DIGESTS[1:4]), ended_since=cut)
    assert found == expected


async def test_content_that_is_a_file_is_needed(both: tuple[EventLog, ContentIndex]) -> None:
    log, index = both
    await log.append(
        File.upload(context_at(FakeClock(), PROJECT), sha256=DIGESTS[0], size_bytes=1),
        File.upload(context_at(FakeClock(), OTHER), sha256=DIGESTS[1], size_bytes=1),
    )
    assert await index.needed(PROJECT, frozenset(DIGESTS), ended_since=EPOCH) == {DIGESTS[0]}
    assert await index.needed(PROJECT, frozenset(), ended_since=EPOCH) == frozenset()


async def test_unended_operations(both: tuple[EventLog, ContentIndex]) -> None:
    log, index = both
    clock = FakeClock()
    await ran(log, clock)
    running = await ran(log, clock, ends=False)
    await ran(log, clock, ends=False, project=OTHER)
    assert await index.unended(PROJECT) == [running.id]


@pytest.mark.postgres
async def test_both_say_the_same_of_a_random_history(
    postgres_pool: object,
) -> None:
    fake_log = FakeEventLog()
    real_log = PostgresEventLog(postgres_pool, ALL)
    fake, real = FakeContentIndex(fake_log), PostgresContentIndex(postgres_pool)
    projects = []
    for log in (fake_log, real_log):
        history = History(random.Random(7), space=0x1DE)
        projects = history.project_ids
        for touched in history.steps(250):
            await log.append(*touched)
    for project_id in projects:
        assert await fake.unended(project_id) == await real.unended(project_id)
        ended = await fake.ended(project_id, limit=1000)
        assert ended == await real.ended(project_id, limit=1000)
        assert len(ended) > 5
        digests = frozenset[str]().union(*(one.digests for one in ended))
        for one in ended[::3]:
            at = one.created_at + timedelta(seconds=5)
            assert await fake.needed(project_id, digests, ended_since=at) == await real.needed(
                project_id, digests, ended_since=at
            )
            assert await fake.ended_count(
                project_id, since=None, before=at
            ) == await real.ended_count(project_id, since=None, before=at)


@pytest.mark.postgres
async def test_who_needs_a_digest_is_looked_up_and_not_searched_for(
    postgres_pool: asyncpg.Pool,
) -> None:
    """Each table is entered by what is asked for, not by the project, whose all may stay."""
    async with postgres_pool.acquire() as connection, connection.transaction():
        # So few rows as here are read whole, unless it is forbidden.
        await connection.execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"
        )
        (plan,) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {NEEDED}", PROJECT, DIGESTS, EPOCH)
    scans = list(scans_of(json.loads(plan["QUERY PLAN"])[0]["Plan"]))
    assert sorted({table for table, _ in scans}) == ["content_refs", "files", "operations"]
    for table, condition in scans:
        key = "operation_id" if table == "operations" else "sha256"
        assert key in condition, f"{table} by {condition}"


def scans_of(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each table that a plan reads and by which condition on its index."""
    if "Relation Name" in node:
        yield node["Relation Name"], node.get("Index Cond", "nothing")
    for below in node.get("Plans", ()):
        yield from scans_of(below)
