"""The read side's contract: fake and SQL reads give the same answers over the same histories.

Two independent foldings of one log (plain Python, projections in SQL) are compared; what the
answers must be is then asserted on a small story.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.pool import PostgresDatabase
from contree.app.event_log import EventLog
from contree.app.reads import FileReads, ImageReads, OperationReads, Page, TokenReads
from contree.domain.aggregate import Aggregate
from contree.domain.errors import NotFoundError
from contree.domain.file import File
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.operation import Kind, Operation, Status
from contree.domain.project import Project, project_id_of
from contree.domain.tag import Tag
from contree.domain.token import Permission, Token
from contree.projections import (
    ALL,
    SqlFileReads,
    SqlImageReads,
    SqlOperationReads,
    SqlTokenReads,
)
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.reads import FakeFileReads, FakeImageReads, FakeOperationReads, FakeTokenReads
from tests.support.histories import History, a_spec, an_outcome, context_at, digest_of

IDS = FakeIds(space=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    log: EventLog
    images: ImageReads
    operations: OperationReads
    files: FileReads
    tokens: TokenReads


def fake_reads() -> Reads:
    log = FakeEventLog()
    return Reads(
        log=log,
        images=FakeImageReads(log),
        operations=FakeOperationReads(log),
        files=FakeFileReads(log),
        tokens=FakeTokenReads(log),
    )


def sql_reads(pool: object) -> Reads:
    database = PostgresDatabase(pool)
    return Reads(
        log=PostgresEventLog(pool, ALL),
        images=SqlImageReads(database),
        operations=SqlOperationReads(database),
        files=SqlFileReads(database),
        tokens=SqlTokenReads(database),
    )


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def reads(request: pytest.FixtureRequest) -> Reads:
    if request.param == "fake":
        return fake_reads()
    return sql_reads(request.getfixturevalue("postgres_pool"))


async def answers(reads: Reads, history: History, page: Page) -> list[object]:
    """Everything the read side says of a history's projects."""
    found: list[object] = [await reads.tokens.list()]
    for project_id in history.project_ids:
        found += [
            await reads.images.list(project_id, page),
            await reads.images.list(project_id, page, tagged=True),
            await reads.images.list(project_id, page, tag_prefix="base"),
            await reads.images.list(project_id, page, tag_prefix="base:latest"),
            await reads.operations.list(project_id, page),
            await reads.operations.list(project_id, page, status=Status.FAILED),
            await reads.operations.list(project_id, page, kind=Kind.IMPORT),
            await reads.operations.counts(project_id),
            await reads.files.list(project_id, page),
            *[await reads.images.by_tag(project_id, t) for t in ("base", "winner", "none")],
        ]
        for aggregate in history.aggregates.values():
            found += await answers_about(reads, project_id, aggregate)
    return found


async def answers_about(reads: Reads, project_id: UUID, aggregate: Aggregate) -> list[object]:
    match aggregate:
        case Image():
            return [
                await reads.images.get(project_id, aggregate.id),
                await reads.images.stack(aggregate.project_id, aggregate.id),
                await reads.images.tags_of(project_id, aggregate.id),
                await reads.images.list(project_id, Page(), image_id=aggregate.id),
            ]
        case Operation():
            return [await reads.operations.get(project_id, aggregate.id)]
        case File():
            return [
                await reads.files.get(project_id, aggregate.id),
                await reads.files.by_sha256(project_id, aggregate.sha256),
            ]
        case Token():
            return [await reads.tokens.by_secret_sha256(aggregate.secret_sha256)]
        case _:
            return []


@pytest.mark.postgres
@pytest.mark.parametrize("seed", [11, 12, 13])
async def test_both_foldings_of_a_random_history_agree(postgres_pool: object, seed: int) -> None:
    fake, real = fake_reads(), sql_reads(postgres_pool)
    played, again = History(seed), History(seed)
    for touched, same in zip(played.steps(250), again.steps(250), strict=True):
        await fake.log.append(*touched)
        await real.log.append(*same)
    middle = EPOCH + timedelta(seconds=100)
    for page in (
        Page(limit=1000),
        Page(limit=3, offset=2),
        Page(limit=1000, since=middle),
        Page(limit=1000, until=middle),
        Page(offset=100_000),
    ):
        assert await answers(real, played, page) == await answers(fake, played, page)


async def an_image(reads: Reads, clock: FakeClock, project_id: UUID) -> Image:
    clock.advance(1)
    image = Image.imported(
        context_at(clock, project_id),
        operation_id=IDS.new_id(),
        registry_url="docker://r/i:t",
        manifest_digest="sha256:m",
        config_digest=f"sha256:{IDS.new_id()}",
        layers=["sha256:a", "sha256:b"],
        environment=RecordedEnvironment(),
        workdir="/",
        size_bytes=5,
    )
    await reads.log.append(image)
    return image


async def tagged(
    reads: Reads, clock: FakeClock, project_id: UUID, names: Sequence[str], image: Image
) -> None:
    for name in names:
        clock.advance(1)
        tag = Tag.assign(context_at(clock, project_id), name=name, image_id=image.id)
        await reads.log.append(tag)


async def test_lists_have_a_row_for_each_image_and_tag_newest_image_first(reads: Reads) -> None:
    clock, project_id = FakeClock(), IDS.new_id()
    plain, named = [await an_image(reads, clock, project_id) for _ in range(2)]
    await tagged(reads, clock, project_id, ["b", "a"], named)
    rows = await reads.images.list(project_id, Page())
    assert [(r.image_id, r.tag) for r in rows] == [
        (named.id, "a"),
        (named.id, "b"),
        (plain.id, None),
    ]
    assert [r.tag for r in await reads.images.list(project_id, Page(), tagged=True)] == ["a", "b"]


async def test_an_image_is_shown_with_its_newest_tag(reads: Reads) -> None:
    clock, project_id = FakeClock(), IDS.new_id()
    image = await an_image(reads, clock, project_id)
    await tagged(reads, clock, project_id, ["older", "newer"], image)
    row = await reads.images.get(project_id, image.id)
    assert row is not None
    assert row.tag == "newer"
    assert list(await reads.images.tags_of(project_id, image.id)) == ["newer", "older"]


async def test_a_prefix_puts_the_exact_tag_first(reads: Reads) -> None:
    clock, project_id = FakeClock(), IDS.new_id()
    exact, newer = [await an_image(reads, clock, project_id) for _ in range(2)]
    await tagged(reads, clock, project_id, ["py"], exact)
    await tagged(reads, clock, project_id, ["py:3", "py-alt", "px"], newer)
    rows = await reads.images.list(project_id, Page(), tag_prefix="py")
    assert [r.tag for r in rows] == ["py", "py-alt", "py:3"]


@pytest.mark.parametrize("text", ["", "%", "_", "\0", "\U0010ffff", "a\0b"])
async def test_any_text_may_be_searched_for_as_a_tag(reads: Reads, text: str) -> None:
    clock, project_id = FakeClock(), IDS.new_id()
    image = await an_image(reads, clock, project_id)
    await tagged(reads, clock, project_id, ["base"], image)
    rows = await reads.images.list(project_id, Page(), tag_prefix=text)
    assert [r.tag for r in rows] == (["base"] if text == "" else [])
    assert await reads.images.by_tag(project_id, text) is None


async def test_a_removed_tag_points_nowhere_and_a_moved_one_elsewhere(reads: Reads) -> None:
    clock, project_id = FakeClock(), IDS.new_id()
    one, other = [await an_image(reads, clock, project_id) for _ in range(2)]
    tag = Tag.assign(context_at(clock, project_id), name="base", image_id=one.id)
    await reads.log.append(tag)
    tag.move(context_at(clock, project_id), image_id=other.id)
    await reads.log.append(tag)
    row = await reads.images.by_tag(project_id, "base")
    assert row is not None
    assert row.image_id == other.id
    tag.remove(context_at(clock, project_id))
    await reads.log.append(tag)
    assert await reads.images.by_tag(project_id, "base") is None


async def test_nothing_of_another_project_is_ever_shown(reads: Reads) -> None:
    clock, mine, theirs = FakeClock(), IDS.new_id(), IDS.new_id()
    image = await an_image(reads, clock, theirs)
    await tagged(reads, clock, theirs, ["base"], image)
    context = context_at(clock, theirs)
    run = Operation.request_instance(context, operation_id=IDS.new_id(), spec=a_spec(image.id))
    file = File.upload(context, sha256=digest_of("x"), size_bytes=1)
    await reads.log.append(run, file)
    assert await reads.images.get(mine, image.id) is None
    with pytest.raises(NotFoundError):
        await reads.images.stack(mine, image.id)
    assert await reads.images.by_tag(mine, "base") is None
    assert list(await reads.images.tags_of(mine, image.id)) == []
    assert list(await reads.images.list(mine, Page(), image_id=image.id)) == []
    assert await reads.operations.get(mine, run.id) is None
    assert list(await reads.operations.list(mine, Page())) == []
    assert set((await reads.operations.counts(mine)).values()) == {0}
    assert await reads.files.get(mine, file.id) is None
    assert await reads.files.by_sha256(mine, file.sha256) is None
    assert list(await reads.files.list(mine, Page())) == []


async def test_an_operation_is_shown_in_every_state(reads: Reads) -> None:
    clock, project_id, result = FakeClock(), IDS.new_id(), IDS.new_id()
    spec = a_spec(IDS.new_id())
    context = context_at(clock, project_id)
    run = Operation.request_instance(context, operation_id=IDS.new_id(), spec=spec)

    async def shown() -> tuple[Status, str | None, bool, int]:
        await reads.log.append(run)
        row = await reads.operations.get(project_id, run.id)
        assert row is not None
        return row.status, row.worker, row.started_at is not None, row.duration_us

    assert await shown() == (Status.PENDING, None, False, 0)
    run.assign(context, worker="w", lease_until=EPOCH)
    assert await shown() == (Status.ASSIGNED, "w", True, 0)
    run.start(context)
    assert await shown() == (Status.EXECUTING, "w", True, 0)
    run.lose(context, reason="gone")
    assert await shown() == (Status.PENDING, None, False, 0)
    run.assign(context, worker="v", lease_until=EPOCH)
    clock.advance(2)
    end = context_at(clock, project_id)
    run.succeed(end, result_image_id=result, image_size_bytes=7, outcome=an_outcome())
    assert await shown() == (Status.SUCCESS, "v", True, 2_000_000)
    row = await reads.operations.get(project_id, run.id)
    assert row is not None
    assert row.request == spec.to_fact()
    assert row.outcome == an_outcome().to_fact()
    assert (row.image_id, row.result_image_id, row.image_size_bytes) == (spec.image_id, result, 7)
    assert row.finished_at == end.at
    counts = await reads.operations.counts(project_id)
    assert counts == {**dict.fromkeys([s.value for s in Status], 0), "SUCCESS": 1}


async def test_as_many_wait_as_are_pending_in_the_project(reads: Reads) -> None:
    project_id, clock = IDS.new_id(), FakeClock()
    for of in (project_id, project_id, IDS.new_id()):
        run = Operation.request_instance(
            context_at(clock, of), operation_id=IDS.new_id(), spec=a_spec(IDS.new_id())
        )
        await reads.log.append(run)
    found = [await reads.operations.as_many_wait(project_id, number) for number in (1, 2, 3)]
    assert found == [True, True, False]
    run.cancel(context_at(clock, run.project_id))
    await reads.log.append(run)
    assert not await reads.operations.as_many_wait(run.project_id, 1)


async def test_what_has_not_ended_is_counted_by_state_and_worker(reads: Reads) -> None:
    context = context_at(FakeClock(), IDS.new_id())
    worker = f"worker-{IDS.new_id()}"
    runs = [
        Operation.request_instance(context, operation_id=IDS.new_id(), spec=a_spec(IDS.new_id()))
        for _ in range(4)
    ]

    async def counted() -> dict[tuple[Kind, Status, str | None], int]:
        await reads.log.append(*runs)
        return {
            (one.kind, one.status, one.worker): one.operations
            for one in await reads.operations.under_way()
            if one.worker in (None, worker)
        }

    pending = (Kind.INSTANCE, Status.PENDING, None)
    before = (await counted())[pending]
    for run in runs[:3]:
        run.assign(context, worker=worker, lease_until=EPOCH)
    runs[1].start(context)
    runs[2].cancel(context)
    runs[3].cancel(context)
    counts = await counted()
    assert counts.get(pending, 0) == before - 4
    assert counts[Kind.INSTANCE, Status.ASSIGNED, worker] == 2  # one is to be cancelled
    assert counts[Kind.INSTANCE, Status.EXECUTING, worker] == 1
    assert sum(number for (_, _, by), number in counts.items() if by == worker) == 3


async def test_a_token_is_found_by_its_secrets_digest_with_its_projects_name(
    reads: Reads,
) -> None:
    name = f"project-{IDS.new_id()}"
    project_id = project_id_of(name)
    context = context_at(FakeClock(), project_id)
    token = Token.issue(
        context,
        token_id=IDS.new_id(),
        secret_sha256=digest_of("secret"),
        permissions=[Permission.SPAWN, Permission.LIST],
        expires_at=EPOCH,
    )
    await reads.log.append(Project.create(context, name=name), token)
    row = await reads.tokens.by_secret_sha256(digest_of("secret"))
    assert row is not None
    assert (row.project_name, row.permissions) == (name, frozenset({"spawn", "list"}))
    token.revoke(context)
    await reads.log.append(token)
    revoked = await reads.tokens.by_secret_sha256(digest_of("secret"))
    assert revoked == replace(row, revoked_at=context.at)
    assert await reads.tokens.by_secret_sha256(digest_of("other")) is None


async def test_a_file_keeps_its_creation_time_when_it_arrives_again(reads: Reads) -> None:
    clock, project_id = FakeClock(), IDS.new_id()
    file = File.upload(context_at(clock, project_id), sha256=digest_of("x"), size_bytes=9)
    await reads.log.append(file)
    clock.advance(5)
    file.upload_again(context_at(clock, project_id))
    await reads.log.append(file)
    row = await reads.files.by_sha256(project_id, digest_of("x"))
    assert row is not None
    assert (row.file_id, row.size_bytes) == (file.id, 9)
    assert (row.created_at, row.updated_at) == (EPOCH, clock.now())


async def test_many_files_are_asked_for_at_once_and_only_the_projects_own_are_given(
    reads: Reads,
) -> None:
    clock, mine, theirs = FakeClock(), IDS.new_id(), IDS.new_id()
    files = [
        File.upload(context_at(clock, project), sha256=digest_of(text), size_bytes=size)
        for size, (project, text) in enumerate([(mine, "a"), (mine, "b"), (theirs, "c")])
    ]
    for file in files:
        await reads.log.append(file)
    found = await reads.files.many(mine, [*(file.id for file in files), IDS.new_id()])
    assert {file_id: row.size_bytes for file_id, row in found.items()} == {
        files[0].id: 0,
        files[1].id: 1,
    }
    assert await reads.files.many(mine, []) == {}


class Watched:
    """Notes the columns that are read."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self.columns: set[str] = set()

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]:
        rows = await self._database.fetch(statement, *arguments)
        self.columns |= {name for row in rows for name in dict(row)}
        return rows

    async def fetchrow(self, statement: str, *arguments: Any) -> Mapping[str, Any] | None:
        row = await self._database.fetchrow(statement, *arguments)
        self.columns |= set(dict(row or {}))
        return row


@pytest.mark.postgres
async def test_a_list_of_operations_reads_no_request(postgres_pool: Any) -> None:
    """Requests are what is large of an operation."""
    log, watched = PostgresEventLog(postgres_pool, ALL), Watched(PostgresDatabase(postgres_pool))
    context = context_at(FakeClock(), IDS.new_id())
    spec = a_spec(IDS.new_id(), args=("x" * 10_000,))
    run = Operation.request_instance(context, operation_id=IDS.new_id(), spec=spec)
    await log.append(run)
    operations = SqlOperationReads(watched)
    (row,) = await operations.list(context.project_id, Page())
    assert watched.columns == {field.name for field in fields(row)}
    assert "request" not in watched.columns
    whole = await operations.get(context.project_id, run.id)
    assert whole is not None
    assert whole.request["args"] == ["x" * 10_000]
