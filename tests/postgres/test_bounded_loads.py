"""What it costs to load an aggregate that was changed 100,000 times: rows are counted, not time."""

from __future__ import annotations

import re
from collections.abc import Callable
from uuid import UUID

import asyncpg
import pytest

from contree.adapters.postgres.event_log import PostgresEventLog, telling_events
from contree.domain.aggregate import Aggregate, later_event_types, overwriting
from contree.domain.file import File
from contree.domain.project import Project, Removal
from contree.domain.tag import Tag
from contree.domain.token import Permission, Token
from contree.projections import ALL
from tests.fakes.clock import FakeClock, FakeIds
from tests.support.histories import History, context_at
from tests.support.postgres import rows_read

pytestmark = pytest.mark.postgres

CHANGES = 100_000
IDS = FakeIds(space=0xB0)
PROJECT, IMAGES = IDS.new_id(), [IDS.new_id(), IDS.new_id()]
CLOCK = FakeClock()
CONTEXT = context_at(CLOCK, PROJECT)

REPEAT = (
    "INSERT INTO stored_events (originator_id, originator_version, topic, state) "
    "SELECT e.originator_id, e.originator_version + 2 * n, e.topic, e.state "
    "FROM generate_series(1, $2::integer / 2) AS n, stored_events e "
    "WHERE e.originator_id = $1 AND e.originator_version > $3 ORDER BY n, e.originator_version"
)


def a_tag() -> Tag:
    """Removed once, and pointed at two images in turn since."""
    tag = Tag.assign(CONTEXT, name="latest", image_id=IMAGES[0])
    tag.remove(CONTEXT)
    tag.move(CONTEXT, image_id=IMAGES[0])
    tag.move(CONTEXT, image_id=IMAGES[1])
    return tag


def a_file() -> File:
    file = File.upload(CONTEXT, sha256="0" * 64, size_bytes=1)
    file.upload_again(CONTEXT)
    file.upload_again(CONTEXT)
    return file


def a_project() -> Project:
    """Its retention, a hold and a release long ago, content removed again and again since."""
    project = Project.create(CONTEXT, name="p")
    project.set_retention(CONTEXT, days=30)
    project.hold(CONTEXT, reason="case 7")
    project.release(CONTEXT)
    cut = project.retention_cut(CONTEXT.at)
    assert cut is not None
    project.apply_retention(CONTEXT, cut=cut, operation_count=1)
    for _ in range(2):
        project.content_removed(
            CONTEXT,
            cause=Removal.RETENTION,
            complete=True,
            journal_count=0,
            blob_count=0,
            blob_bytes=0,
        )
    return project


def a_token() -> Token:
    token = Token.issue(
        CONTEXT,
        token_id=IDS.new_id(),
        secret_sha256="0" * 64,
        permissions=[Permission.LIST],
        expires_at=None,
    )
    token.revoke(CONTEXT)
    return token


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "analyzed"])
@pytest.mark.parametrize("made", [a_tag, a_file, a_project])
async def test_an_aggregate_of_100_000_changes_loads_by_a_few_rows(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, made: Callable[[], Aggregate], analyzed: bool
) -> None:
    log, aggregate = PostgresEventLog(postgres_pool, ALL), made()
    before = aggregate.version
    # Others of its class, of few events each: what the planner's statistics are mostly made of.
    await log.append(*(a for touched in History(5).steps(200) for a in touched))
    await log.append(aggregate)
    await postgres_pool.execute(REPEAT, aggregate.id, CHANGES, before - 2)
    if analyzed:
        connection = await asyncpg.connect(postgres_dsn)
        await connection.execute("ANALYZE stored_events")
        await connection.close()
    kinds = 1 + len(later_event_types(type(aggregate)))
    read = await rows_read(postgres_pool, telling_events(type(aggregate)), aggregate.id)
    assert read <= kinds
    loaded = await log.load(type(aggregate), aggregate.id)
    aggregate.version += CHANGES
    assert loaded == aggregate
    await change(log, loaded)


async def change(log: PostgresEventLog, loaded: Aggregate | None) -> None:
    """What was loaded so can be changed, and is loaded changed."""
    match loaded:
        case Tag():
            loaded.move(CONTEXT, image_id=IMAGES[0])
        case File():
            loaded.upload_again(CONTEXT)
        case Project():
            loaded.hold(CONTEXT, reason="case 8")
        case _:
            raise AssertionError(loaded)
    version = loaded.version
    await log.append(loaded)
    again = await log.load(type(loaded), loaded.id)
    assert again == loaded
    assert again is not None
    assert again.version == version


async def test_a_token_has_two_events_at_most(postgres_pool: asyncpg.Pool) -> None:
    log, token = PostgresEventLog(postgres_pool, ALL), a_token()
    await log.append(token)
    assert await log.load(Token, token.id) == token
    assert await rows_read(postgres_pool, telling_events(Token), token.id) == 2


async def test_the_index_has_every_kind_that_is_looked_up_by_its_last_event(
    postgres_pool: asyncpg.Pool,
) -> None:
    definition = await postgres_pool.fetchval(
        "SELECT pg_get_indexdef('public.stored_events_last_idx'::regclass)"
    )
    wanted = {topic for cls in overwriting() for topic in later_event_types(cls)}
    assert set(re.findall(r"'(contree\.[a-z_.]+)'", definition)) == wanted


async def test_an_id_of_another_class_loads_as_none(postgres_pool: asyncpg.Pool) -> None:
    log, tag = PostgresEventLog(postgres_pool, ALL), a_tag()
    await log.append(tag)
    assert await log.load(Project, tag.id) is None
    assert await log.load(Tag, UUID(int=1)) is None
