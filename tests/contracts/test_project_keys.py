"""The ProjectKeys contract, on the fake and on PostgreSQL; then how the real one keeps them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg
import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.project_keys import CHANNEL, PostgresProjectKeys
from contree.adapters.system.project_cipher import AesCiphers
from contree.app.content.project_keys import ProjectKeys
from contree.app.event_log import EventLog
from contree.domain.context import Context
from contree.domain.errors import ContentDamagedError, ContentErasedError
from contree.domain.project import Project, project_id_of
from contree.projections import ALL
from tests.fakes.clock import EPOCH
from tests.fakes.event_log import FakeEventLog
from tests.fakes.project_keys import FakeProjectKeys
from tests.fakes.sealer import FakeSealer

ALPHA = project_id_of("alpha")
CONTEXT = Context(actor="operator", project_id=ALPHA, request_id="r", at=EPOCH)


@dataclass
class Keys:
    keys: ProjectKeys
    log: EventLog

    async def erase(self) -> None:
        project = Project.create(CONTEXT, name="alpha")
        project.erase(CONTEXT, reason="asked to")
        await self.log.append(project)


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def both(request: pytest.FixtureRequest) -> Keys:
    if request.param == "fake":
        log = FakeEventLog()
        return Keys(FakeProjectKeys(log), log)
    pool = request.getfixturevalue("postgres_pool")
    listener = request.getfixturevalue("listener")
    return Keys(real_keys(pool, listener), PostgresEventLog(pool, ALL))


async def used_for_ever(keys: ProjectKeys) -> None:
    while True:
        await keys.cipher(ALPHA)
        await asyncio.sleep(0)


def real_keys(pool: asyncpg.Pool, listener: PostgresListener) -> PostgresProjectKeys:
    return PostgresProjectKeys(pool, listener, sealer=FakeSealer(), ciphers=AesCiphers())


async def test_a_project_has_one_key_from_its_first_use_on(both: Keys) -> None:
    sealed = (await both.keys.cipher(ALPHA)).box("x").seal(b"plain")
    assert (await both.keys.cipher(ALPHA)).box("x").open(sealed) == b"plain"


async def test_projects_have_keys_of_their_own(both: Keys) -> None:
    sealed = (await both.keys.cipher(ALPHA)).box("x").seal(b"plain")
    other = await both.keys.cipher(project_id_of("beta"))
    with pytest.raises(ContentDamagedError):
        other.box("x").open(sealed)


async def test_of_many_that_ask_first_all_get_the_same_key(both: Keys) -> None:
    ciphers = await asyncio.gather(*(both.keys.cipher(ALPHA) for _ in range(8)))
    assert len({cipher.name_of("00" * 32) for cipher in ciphers}) == 1


async def test_the_event_of_the_erasure_destroys_the_key_for_good(both: Keys) -> None:
    await both.keys.cipher(ALPHA)
    await both.erase()
    async with asyncio.timeout(10):
        with pytest.raises(ContentErasedError) as caught:
            await used_for_ever(both.keys)  # who remembers the key lets go of it on hearing
    assert caught.value.at == EPOCH
    with pytest.raises(ContentErasedError):
        await both.keys.cipher(ALPHA)


async def test_a_project_that_never_had_a_key_gets_none_after_its_erasure(both: Keys) -> None:
    await both.erase()
    with pytest.raises(ContentErasedError):
        await both.keys.cipher(ALPHA)


@pytest.mark.postgres
async def test_the_key_is_stored_wrapped_and_its_row_says_when_it_was_destroyed(
    postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    keys = Keys(real_keys(postgres_pool, listener), PostgresEventLog(postgres_pool, ALL))
    await keys.keys.cipher(ALPHA)
    wrapped = await postgres_pool.fetchval("SELECT wrapped FROM project_keys")
    assert FakeSealer().open(wrapped)[:16] == ALPHA.bytes
    await keys.erase()
    row = await postgres_pool.fetchrow("SELECT * FROM project_keys")
    assert dict(row) == {"project_id": ALPHA, "wrapped": None, "erased_at": EPOCH}


@pytest.mark.postgres
async def test_the_key_of_another_project_is_refused(
    postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    keys = real_keys(postgres_pool, listener)
    await keys.cipher(ALPHA)
    await postgres_pool.execute(
        "INSERT INTO project_keys (project_id, wrapped) SELECT $1, wrapped FROM project_keys",
        project_id_of("beta"),
    )
    with pytest.raises(ContentDamagedError):
        await keys.cipher(project_id_of("beta"))


@pytest.mark.postgres
async def test_a_process_that_cannot_hear_asks_each_time(
    postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    listener.subscribe = lambda *_: None
    keys = Keys(real_keys(postgres_pool, listener), PostgresEventLog(postgres_pool, ALL))
    await keys.keys.cipher(ALPHA)
    await keys.erase()
    with pytest.raises(ContentErasedError):
        await keys.keys.cipher(ALPHA)


@pytest.mark.postgres
async def test_a_process_that_hears_remembers(
    postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    keys = real_keys(postgres_pool, listener)
    await keys.cipher(ALPHA)
    await listener.listening(CHANNEL)
    first = await keys.cipher(ALPHA)
    assert await keys.cipher(ALPHA) is first
