"""What the audit index answers: fake and SQL give the same over the same histories.

Two independent readings of one log are compared at random, and asserted on small stories. The past
of both is held to the read models' own contract: the fake's past is the fake over the first events.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from contree.adapters.postgres.audit_index import PostgresAuditIndexer, PostgresAuditProgress
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.pool import PostgresDatabase
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.adapters.postgres.transcoder import OrjsonTranscoder, event_decoder
from contree.app.audit.audit_index import AuditProgress
from contree.app.audit.audit_reads import (
    LINEAGE_ARGS_BYTES,
    LINEAGE_COMMAND_CHARS,
    PAGE_BYTES_MAX,
    AuditFilter,
    AuditReads,
    PastReads,
    Span,
)
from contree.app.event_log import EventLog
from contree.app.reads import Page
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.operation import Kind, Operation, Status
from contree.projections import ALL, SqlAuditReads, SqlPastReads, audit_reads, past_operations
from contree.projections.audit_index import fold_audit
from contree.worker.follow_log import FollowLog
from tests.fakes.audit import FakeAuditProgress, FakeAuditReads, FakePastReads, positions
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.recorded_log import FakeRecordedLog
from tests.support.histories import A_BODY, History, a_spec, an_outcome, context_at
from tests.support.postgres import AUDIT_TABLES

WAIT_S = 20
IDS = FakeIds(space=5)
CONTEXT = context_at(FakeClock(), IDS.new_id())


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    log: EventLog
    reads: AuditReads
    past: PastReads
    progress: AuditProgress

    async def caught_up(self, head: int) -> None:
        assert (await self.progress.reached(head, within_s=WAIT_S)).position >= head


def fake_audit() -> Audit:
    log = FakeEventLog()
    recorded = FakeRecordedLog(log)
    return Audit(
        log=log,
        reads=FakeAuditReads(log, recorded),
        past=FakePastReads(log),
        progress=FakeAuditProgress(log, recorded),
    )


@pytest_asyncio.fixture(loop_scope="session")
async def real(postgres_dsn: str, postgres_pool: Any) -> AsyncIterator[Audit]:
    """The index on PostgreSQL, with the duty that keeps it running beside."""
    listener = PostgresListener(postgres_dsn)
    database, decode = PostgresDatabase(postgres_pool), OrjsonTranscoder().decode
    indexer = PostgresAuditIndexer(
        postgres_pool, fold=fold_audit, decode=decode, fingerprint=AUDIT_TABLES.fingerprint
    )
    recorded = PostgresRecordedLog(postgres_pool, listener)
    duty = asyncio.create_task(FollowLog(recorded=recorded, index=indexer).run())
    yield Audit(
        log=PostgresEventLog(postgres_pool, ALL),
        reads=SqlAuditReads(database, decode=decode),
        past=SqlPastReads(database, decode_event=event_decoder()),
        progress=PostgresAuditProgress(postgres_pool, listener),
    )
    duty.cancel()
    await asyncio.gather(duty, return_exceptions=True)
    await listener.aclose()


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def audit(request: pytest.FixtureRequest) -> Audit:
    if request.param == "fake":
        return fake_audit()
    made: Audit = request.getfixturevalue("real")
    return made


async def play(history: History, steps: int, *audits: Audit) -> int:
    """Append the same history to all, step by step; return the position that all have reached."""
    count = 0
    first = [a for a in history.aggregates.values() if a.pending_events]
    for number in range(steps + 1):
        touched = history.step() if number else first
        pending = [list(aggregate.pending_events) for aggregate in touched]
        for audit in audits:
            for aggregate, events in zip(touched, pending, strict=True):
                aggregate.pending_events[:] = events
            await audit.log.append(*touched)
        count += sum(map(len, pending))
    for audit in audits:
        await audit.caught_up(count)
    return count


def comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that both sides have: the fake shows the event's own attributes."""
    shown = {
        "actor",
        "project_id",
        "request_id",
        "timestamp",
        "spec",
        "name",
        "image_id",
        "outcome",
    }
    return {name: value for name, value in facts.items() if name in shown}


def some_filters(history: History, choose: random.Random) -> list[AuditFilter]:
    project_id = history.project_ids[0]
    runs = [a.id for a in history.aggregates.values() if isinstance(a, Operation)]
    images = [a.id for a in history.aggregates.values() if isinstance(a, Image)]
    ends = ("contree.operation.failed", "contree.operation.cancelled")
    return [
        AuditFilter(),
        AuditFilter(project_id=project_id),
        AuditFilter(project_id=project_id, actor="actor-1"),
        AuditFilter(project_id=project_id, actor="nobody\0"),
        AuditFilter(operation_id=choose.choice(runs)),
        AuditFilter(project_id=project_id, operation_id=choose.choice(runs)),
        AuditFilter(project_id=project_id, image_id=choose.choice(images)),
        AuditFilter(image_id=choose.choice(images), actor="actor-0"),
        AuditFilter(project_id=project_id, tag="base"),
        AuditFilter(project_id=project_id, tag="base:latest"),
        AuditFilter(project_id=project_id, types=ends),
        AuditFilter(project_id=project_id, types=("contree.tag.moved",), tag="winner"),
    ]


@pytest.mark.postgres
@pytest.mark.parametrize("seed", [31, 32])
async def test_both_find_the_same_events_by_every_filter(real: Audit, seed: int) -> None:
    fake, history, choose = fake_audit(), History(seed), random.Random(seed)
    head = await play(history, 220, fake, real)
    found_count = 0
    for wanted in some_filters(history, choose):
        for newest_first in (False, True):
            after = choose.choice((0, head // 3))
            span = Span(after=after, until=choose.choice((head, head * 2, head // 2)))
            pages = []
            for audit in (fake, real):
                found = await audit.reads.entries(
                    wanted, span, limit=1000, newest_first=newest_first
                )
                assert found.rest is None
                pages.append(
                    [(e.event.position, e.event.topic, comparable(e.facts)) for e in found.entries]
                )
            assert pages[0] == pages[1], wanted
            found_count += len(pages[0])
    assert found_count > head


async def test_pages_make_up_the_whole_in_either_order(audit: Audit) -> None:
    head = await play(History(33), 60, audit)
    for newest_first in (False, True):
        span: Span | None = Span(after=5, until=head - 5)
        pieces: list[int] = []
        while span is not None:
            page = await audit.reads.entries(
                AuditFilter(), span, limit=7, newest_first=newest_first
            )
            pieces += positions(page.entries)
            span = page.rest
        whole = list(range(6, head - 4))
        assert pieces == (whole[::-1] if newest_first else whole)


async def test_a_page_ends_by_bytes_and_the_next_one_goes_on(audit: Audit) -> None:
    size_bytes, count = 60_000, 2 * PAGE_BYTES_MAX // 60_000 + 5
    context = context_at(FakeClock(), IDS.new_id())
    for _ in range(count):
        spec = a_spec(IDS.new_id(), args=("x" * size_bytes,))
        await audit.log.append(
            Operation.request_instance(context, operation_id=IDS.new_id(), spec=spec)
        )
    await audit.caught_up(count)
    for newest_first in (False, True):
        span: Span | None = Span(until=count)
        pieces: list[int] = []
        page_count = 0
        while span is not None:
            page = await audit.reads.entries(
                AuditFilter(), span, limit=1000, newest_first=newest_first
            )
            sizes = [len(entry.event.state) for entry in page.entries]
            assert sum(sizes[:-1]) < PAGE_BYTES_MAX
            pieces += positions(page.entries)
            span = page.rest
            page_count += 1
        whole = list(range(1, count + 1))
        assert pieces == (whole[::-1] if newest_first else whole)
        assert page_count == 3


async def test_a_lineage_shows_commands_in_few_words(audit: Audit) -> None:
    image = Image.imported(
        CONTEXT,
        operation_id=IDS.new_id(),
        registry_url="docker://localhost:5000/base",
        manifest_digest="sha256:m",
        config_digest="sha256:c",
        layers=["sha256:a"],
        environment=RecordedEnvironment(),
        workdir="",
        size_bytes=1,
    )
    await audit.log.append(image)
    position = 1
    made: list[Image] = []
    for spec in (
        a_spec(image.id, command="cc", args=("-c", "a.c")),
        a_spec(image.id, command="c" * 4000, args=("x" * LINEAGE_ARGS_BYTES,)),
        a_spec(image.id, command="begins so", body=A_BODY),
    ):
        run = Operation.request_instance(CONTEXT, operation_id=IDS.new_id(), spec=spec)
        left = image.committed(
            CONTEXT,
            operation_id=run.id,
            layer=None,
            workdir="/w",
            size_bytes=0,
        )
        position += 2
        await audit.log.append(run, left)
        made.append(left)
    await audit.caught_up(position)
    found = await audit.reads.lineage(None, image.id, depth=1, limit=10)
    assert found is not None
    shown = {one.image_id: one.operation for one in found.images}
    said = [(of.command, of.args) for left in made if (of := shown[left.id]) is not None]
    assert said == [
        ("cc", ["-c", "a.c"]),
        ("c" * LINEAGE_COMMAND_CHARS, None),
        ("begins so", None),
    ]


@pytest.mark.postgres
async def test_those_that_lived_are_walked_through_in_batches(
    real: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past_operations, "ALIVE_BATCH", 3)
    fake, history = fake_audit(), History(37)
    head = await play(history, 200, fake, real)
    found_count = 0
    for position in (head // 2, head):
        pasts = [audit.past.operations(position) for audit in (fake, real)]
        for status in (Status.PENDING, Status.ASSIGNED, Status.EXECUTING):
            for page in (Page(), Page(limit=2), Page(limit=2, offset=1), Page(limit=5, offset=4)):
                then, now = [
                    await past.list(history.project_ids[0], page, status=status) for past in pasts
                ]
                assert list(then) == list(now)
                found_count += len(now)
    assert found_count > 10


@pytest.mark.postgres
async def test_a_search_that_no_index_serves_is_bounded_and_goes_on(
    real: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_reads, "SCAN_POSITIONS_MAX", 10)
    history = History(34)
    head = await play(history, 120, real)
    wanted = AuditFilter(project_id=history.project_ids[0], actor="actor-1", tag="base")
    for newest_first in (False, True):
        span: Span | None = Span(after=0, until=head)
        found: list[int] = []
        page_count = 0
        while span is not None:
            page = await real.reads.entries(wanted, span, limit=50, newest_first=newest_first)
            found += positions(page.entries)
            span = page.rest
            page_count += 1
        assert page_count >= head // 10
        assert found
        monkeypatch.setattr(audit_reads, "SCAN_POSITIONS_MAX", 10**6)
        whole = await real.reads.entries(
            wanted, Span(until=head), limit=1000, newest_first=newest_first
        )
        assert positions(whole.entries) == found
        monkeypatch.setattr(audit_reads, "SCAN_POSITIONS_MAX", 10)


async def answers(past: PastReads, history: History, position: int, page: Page) -> list[object]:
    """Everything the past says of a history's projects."""
    images, operations = past.images(position), past.operations(position)
    found: list[object] = []
    for project_id in history.project_ids:
        found += [
            await images.list(project_id, page),
            await images.list(project_id, page, tagged=True),
            await images.list(project_id, page, tag_prefix="base"),
            await images.list(project_id, page, tag_prefix="base:latest"),
            *[await images.by_tag(project_id, t) for t in ("base", "winner", "none", "a\0b")],
            await operations.list(project_id, page),
            *[await operations.list(project_id, page, status=status) for status in Status],
            *[await operations.list(project_id, page, kind=kind) for kind in Kind],
        ]
        for aggregate in history.aggregates.values():
            if isinstance(aggregate, Image):
                found.append(await images.get(project_id, aggregate.id))
                found.append(await images.list(project_id, page, image_id=aggregate.id))
            elif isinstance(aggregate, Operation):
                found.append(await operations.get(project_id, aggregate.id))
    return found


@pytest.mark.postgres
@pytest.mark.parametrize("seed", [41, 42])
async def test_the_past_is_what_the_first_events_alone_would_show(real: Audit, seed: int) -> None:
    """The fake's past is the fake read side over the first events, and nothing else."""
    fake, history, choose = fake_audit(), History(seed), random.Random(seed)
    head = await play(history, 160, fake, real)
    for position in {0, 1, head, *(choose.randrange(head) for _ in range(5))}:
        for page in (Page(limit=1000), Page(limit=3, offset=2, until=EPOCH.replace(minute=6))):
            assert await answers(real.past, history, position, page) == await answers(
                fake.past, history, position, page
            ), position


@pytest.mark.postgres
@pytest.mark.parametrize("seed", [51])
async def test_both_draw_the_same_lineage(real: Audit, seed: int) -> None:
    fake, history = fake_audit(), History(seed)
    await play(history, 250, fake, real)
    images = [a for a in history.aggregates.values() if isinstance(a, Image)]
    truncated = 0
    for image in images:
        for depth, limit in ((100, 1000), (1, 1000), (2, 2), (100, 1), (100, 0)):
            for project_id in (None, *history.project_ids):
                found = [
                    await audit.reads.lineage(project_id, image.id, depth=depth, limit=limit)
                    for audit in (fake, real)
                ]
                assert found[0] == found[1], (depth, limit)
                truncated += found[0] is not None and found[0].truncated
    assert truncated
    assert await real.reads.lineage(None, IDS.new_id(), depth=1, limit=1) is None


async def test_an_operation_is_seen_as_it_was_at_every_step(audit: Audit) -> None:
    clock, project_id, result = FakeClock(), IDS.new_id(), IDS.new_id()
    run = Operation.request_instance(
        context_at(clock, project_id), operation_id=IDS.new_id(), spec=a_spec(IDS.new_id())
    )
    steps = (
        lambda c: run.assign(c, worker="w", lease_until=EPOCH),
        run.start,
        lambda c: run.lose(c, reason="gone"),
        lambda c: run.assign(c, worker="v", lease_until=EPOCH),
        lambda c: run.succeed(
            c, result_image_id=result, image_size_bytes=7, outcome=an_outcome(exit_code=3)
        ),
    )
    await audit.log.append(run)
    for step in steps:
        clock.advance(1)
        step(context_at(clock, project_id))
        await audit.log.append(run)
    await audit.caught_up(6)
    seen = []
    for position in range(7):
        row = await audit.past.operations(position).get(project_id, run.id)
        seen.append(None if row is None else (row.status, row.worker, row.result_image_id))
    assert seen == [
        None,
        (Status.PENDING, None, None),
        (Status.ASSIGNED, "w", None),
        (Status.EXECUTING, "w", None),
        (Status.PENDING, None, None),
        (Status.ASSIGNED, "v", None),
        (Status.SUCCESS, "v", result),
    ]
    for position, status in ((3, Status.EXECUTING), (4, Status.PENDING), (6, Status.SUCCESS)):
        rows = await audit.past.operations(position).list(project_id, Page(), status=status)
        assert [row.operation_id for row in rows] == [run.id]
        other = await audit.past.operations(position).list(
            project_id, Page(), status=Status.ASSIGNED
        )
        assert other == []
    assert await audit.past.operations(6).get(IDS.new_id(), run.id) is None


async def test_who_waits_for_a_position_is_woken_by_it(audit: Audit) -> None:
    history = History(61)
    steps = history.steps(30)
    waiting = asyncio.create_task(audit.progress.reached(20, within_s=WAIT_S))
    for touched in steps:
        await audit.log.append(*touched)
    assert (await waiting).position >= 20
    assert (await audit.progress.reached(10**6, within_s=0.01)).position < 10**6


async def test_the_log_has_its_time_at_every_position(audit: Audit) -> None:
    head = await play(History(62), 20, audit)
    assert await audit.reads.time_of(0) < await audit.reads.time_of(1)
    last = await audit.reads.time_of(head)
    assert await audit.reads.position_at(last) == head
    assert await audit.reads.position_at(last, inclusive=False) < head
    assert await audit.reads.time_of(10**9) == last
