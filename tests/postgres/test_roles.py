"""What the service's own sessions may do to the log of the embedded server: as `serve` opens them.

The server is the test's own, started by the composition root, so that the wiring is what is tested.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from contree import bootstrap, projections
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.migrate import MigrationError, migrate
from contree.adapters.postgres.pool import connect, open_pool
from contree.bootstrap import DatabaseUrls
from contree.config import Settings
from tests.support.histories import History

pytestmark = pytest.mark.postgres

DENIED = asyncpg.InsufficientPrivilegeError


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def urls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DatabaseUrls]:
    """The embedded database with a short history in it."""
    data_dir: Path = tmp_path_factory.mktemp("roles")
    settings = Settings(data_dir=data_dir)
    try:
        async with bootstrap.database(settings) as urls:
            pool = await open_pool(urls.app)
            for touched in History(3).steps(20):
                await PostgresEventLog(pool, projections.ALL).append(*touched)
            await pool.close()
            yield urls
    finally:
        shutil.rmtree(settings.runtime_dir, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="session")
async def session(urls: DatabaseUrls) -> AsyncIterator[asyncpg.Connection]:
    """One of the pool's connections; `connect` makes the listening ones alike."""
    pool = await open_pool(urls.app)
    async with pool.acquire() as connection:
        yield connection
    await pool.close()


async def test_every_session_of_the_service_logs_in_as_the_restricted_role(
    urls: DatabaseUrls, session: asyncpg.Connection
) -> None:
    listening = await connect(urls.app)
    try:
        for connection in (session, listening):
            row = await connection.fetchrow(
                "SELECT session_user AS login, current_user AS role, rolsuper, rolcreaterole, "
                "rolcreatedb, rolreplication, rolbypassrls FROM pg_roles "
                "WHERE rolname = session_user"
            )
            assert dict(row) == {
                "login": "contree_app",
                "role": "contree_app",
                "rolsuper": False,
                "rolcreaterole": False,
                "rolcreatedb": False,
                "rolreplication": False,
                "rolbypassrls": False,
            }
    finally:
        await listening.close()


async def test_it_is_a_member_of_no_other_role_and_owns_nothing(
    session: asyncpg.Connection,
) -> None:
    assert (
        await session.fetch(
            "SELECT roleid FROM pg_auth_members WHERE member = 'contree_app'::regrole"
        )
        == []
    )
    assert (
        await session.fetch(
            "SELECT oid::regclass FROM pg_class WHERE relowner = 'contree_app'::regrole"
        )
        == []
    )


async def test_what_it_may_do_to_the_log_is_to_read_and_to_insert(
    session: asyncpg.Connection,
) -> None:
    granted = await session.fetch(
        "SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', "
        "'REFERENCES', 'TRIGGER', 'MAINTAIN']) privilege "
        "WHERE has_table_privilege('public.stored_events', privilege) "
        "OR (privilege IN ('INSERT', 'UPDATE', 'REFERENCES') "
        "AND has_any_column_privilege('public.stored_events', privilege)) ORDER BY 1"
    )
    assert [row["privilege"] for row in granted] == ["INSERT", "SELECT"]


@pytest.mark.parametrize("become", ["SELECT 1", "SET ROLE NONE", "RESET ROLE; RESET ALL"])
@pytest.mark.parametrize(
    "attempt",
    [
        "UPDATE public.stored_events SET state = 'x'",
        "DELETE FROM public.stored_events",
        "TRUNCATE public.stored_events",
        "ALTER TABLE public.stored_events DISABLE TRIGGER ALL",
        "ALTER TABLE public.stored_events DISABLE TRIGGER z_no_change",
        "ALTER TABLE public.stored_events ADD COLUMN mine int",
        "DROP TRIGGER b_chain ON public.stored_events",
        (
            "CREATE TRIGGER mine BEFORE INSERT ON public.stored_events "
            "FOR EACH ROW EXECUTE FUNCTION public.stored_events_chain()"
        ),
        "CREATE RULE mine AS ON INSERT TO public.stored_events DO INSTEAD NOTHING",
        (
            "CREATE OR REPLACE FUNCTION public.stored_events_immutable() RETURNS trigger "
            "LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
        ),
        "DROP TABLE public.stored_events",
        "SET session_replication_role = replica",
        "ALTER SYSTEM SET fsync = off",
        "COPY public.stored_events TO PROGRAM 'true'",
    ],
)
async def test_it_can_neither_change_the_log_nor_take_its_defences_down(
    session: asyncpg.Connection, become: str, attempt: str
) -> None:
    await session.execute(become)
    with pytest.raises(DENIED):
        await session.execute(attempt)


@pytest.mark.parametrize(
    "become",
    ["SET ROLE contree_owner", "SET SESSION AUTHORIZATION contree_owner"],
)
async def test_it_cannot_become_the_owner(session: asyncpg.Connection, become: str) -> None:
    with pytest.raises(DENIED):
        await session.execute(become)


async def test_a_process_without_the_owners_url_starts_when_nothing_is_left_to_migrate(
    urls: DatabaseUrls,
) -> None:
    settings = Settings(database_url=urls.app)
    async with bootstrap.database(settings) as joined:
        assert joined == DatabaseUrls(app=urls.app, owner=urls.app)
    with pytest.raises(MigrationError, match="CONTREED_DATABASE_OWNER_URL"):
        await migrate(urls.app, projections=projections.ALL[:-1])  # of another release


async def test_the_owner_is_another_login_and_may_rebuild(urls: DatabaseUrls) -> None:
    assert urls.owner != urls.app
    report = await bootstrap.rebuild_projections(urls, check=False)
    assert report.event_count > 20
