"""Who makes a deployment and its keys: its first process that serves or works, nobody after it."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from contree import bootstrap
from contree.adapters.postgres.migrate import is_migrated
from contree.adapters.system.note_keys import SigningKeyError
from contree.adapters.system.sealer import SealingKeyError
from contree.bootstrap import DatabaseUrls
from contree.bootstrap import proof as proofs
from contree.bootstrap.databases import NoInstallationError
from contree.config import Settings

pytestmark = pytest.mark.postgres

KEYS = {"sealing.key", "checkpoint.key"}


async def begin(settings: Settings, *, make_keys: bool, project: str | None = None) -> None:
    """Open what a process of `settings` has; with `project` record something."""
    assert settings.database_url is not None
    urls = DatabaseUrls(app=settings.database_url, owner=settings.database_url)
    async with bootstrap.core(settings, urls, make_keys=make_keys) as core:
        if project is not None:
            await bootstrap.issue_tokens(core).issue(
                project=project, permissions=[], expires_at=None
            )
        if make_keys:
            bootstrap.duties(core)  # as a worker does


def keys(settings: Settings) -> dict[str, bytes]:
    """The files of keys/, by name; none when it is not there."""
    found = settings.data_dir / "keys"
    return {path.name: path.read_bytes() for path in found.iterdir()} if found.exists() else {}


@pytest.fixture
def hosts(postgres_dsn: str, tmp_path: Path) -> tuple[Settings, Settings]:
    """Two data directories over one database in which nothing was recorded."""
    one, two = (Settings(data_dir=tmp_path / n, database_url=postgres_dsn) for n in ("one", "two"))
    return one, two


async def test_the_first_process_makes_the_keys_and_the_next_has_the_same(
    hosts: tuple[Settings, Settings],
) -> None:
    one, _ = hosts
    await begin(one, make_keys=True)
    made = keys(one)
    assert set(made) == KEYS
    await begin(one, make_keys=True, project="p")
    await begin(one, make_keys=True)
    assert keys(one) == made


async def test_a_host_without_the_keys_is_refused_once_something_is_recorded(
    hosts: tuple[Settings, Settings],
) -> None:
    one, two = hosts
    await begin(one, make_keys=True, project="p")
    missing = two.data_dir / "keys" / "sealing.key"
    with pytest.raises(SealingKeyError) as refused:
        await begin(two, make_keys=True)
    assert str(refused.value) == (
        f"there is no '{missing}', and no other key opens what this deployment has sealed: copy "
        "keys/ from another of its hosts, or restore it from the backup"
    )
    assert keys(two) == {}


async def test_a_lost_signing_key_is_not_replaced_unless_the_former_one_is_named(
    hosts: tuple[Settings, Settings], tmp_path: Path
) -> None:
    one, _ = hosts
    await begin(one, make_keys=True, project="p")
    former = public_key(one)
    (one.data_dir / "keys" / "checkpoint.key").unlink()
    with pytest.raises(SigningKeyError, match="copy it from another host"):
        await begin(one, make_keys=True)
    assert set(keys(one)) == KEYS - {"checkpoint.key"}
    rotated = Settings(
        data_dir=one.data_dir, database_url=one.database_url, checkpoint_former_keys=former
    )
    await begin(rotated, make_keys=True)
    assert set(keys(one)) == KEYS
    assert public_key(one) != former


def public_key(settings: Settings) -> str:
    return str(proofs.note_signer(settings, make=False).key)


async def test_an_operators_command_makes_no_keys_and_needs_none(
    hosts: tuple[Settings, Settings],
) -> None:
    one, two = hosts
    await begin(one, make_keys=False)  # also where nothing is recorded
    assert keys(one) == {}
    await begin(one, make_keys=True, project="p")
    await begin(two, make_keys=False, project="q")
    assert keys(two) == {}


async def test_an_operators_command_does_not_migrate_an_empty_database(
    empty_postgres_dsn: str, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "none", database_url=empty_postgres_dsn)
    with pytest.raises(NoInstallationError, match=r"database_url: start one with `contreed api`"):
        async with bootstrap.installed_database(settings):
            pass
    assert not await is_migrated(empty_postgres_dsn)
    assert not settings.data_dir.exists()
    async with bootstrap.database(settings):
        assert await is_migrated(empty_postgres_dsn)
    async with bootstrap.installed_database(settings) as urls:
        assert urls.app == empty_postgres_dsn
    connection = await asyncpg.connect(empty_postgres_dsn)
    assert await connection.fetchval("SELECT count(*) FROM public.stored_events") == 0
    await connection.close()
