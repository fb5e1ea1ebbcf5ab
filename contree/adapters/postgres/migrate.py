"""Brings a database to the present schema, and the read models to the present projections.

Idempotent, and safe when several processes start at once: an advisory lock lets one work while the
others wait. It never changes a migration that has run: it refuses when the file differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from importlib import resources

import asyncpg

from contree.adapters.postgres.audit_schema import IndexTables, ensure_index
from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.pool import APP_ROLE, connect_as_owner
from contree.adapters.postgres.read_models import read_models_match
from contree.adapters.postgres.rebuild import rebuild
from contree.app.projection import Projection
from contree.domain.errors import ContreeError

LOCK_KEY = 0x636F6E7472656531
"""`contree1`: the advisory lock of migrations."""
SERVER_VERSION_MIN = 140_000

_log = logging.getLogger(__name__)


class MigrationError(ContreeError):
    """The database cannot be brought to the present schema; the text says why."""

    code = "migration"


async def migrate(
    dsn: str,
    *,
    projections: Sequence[Projection],
    index: IndexTables | None = None,
    app_logs_in: bool = False,
) -> bool:
    """Migrate the database of `dsn` (an owner's), and rebuild read models of another shape.

    The tables of `index` are made empty where they are of another shape; a worker fills them.
    With `app_logs_in` the role APP_ROLE may log in itself, without a password of its own: for the
    embedded server, which trusts whoever reaches its socket. Where nothing is left to do, a login
    of the service's own rights will do.

    Returns True when the read models were rebuilt from the log, which takes a minute for about a
    million events; the log goes on being appended to meanwhile. Raises MigrationError,
    UnavailableError.
    """
    connection = await connect_as_owner(dsn)
    try:
        with translated():
            await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
            await _check_server(connection)
            await _make_app_role(connection)
            if app_logs_in:
                await connection.execute(f"ALTER ROLE {APP_ROLE} LOGIN")
            await _run_migrations(connection)
            if index is not None and await ensure_index(connection, index):
                _log.info("the audit index is made anew: a worker folds it from the log")
            if await read_models_match(connection, projections):
                return False
            _log.warning("the read models are of another release: rebuilding them from the log")
            await rebuild(dsn, projections=projections)
            return True
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(
            "the database is not at this release, and this login may not bring it there: set "
            f"CONTREED_DATABASE_OWNER_URL to the database's owner ({error})"
        ) from error
    finally:
        await connection.close()


async def is_migrated(dsn: str) -> bool:
    """Whether a release has ever brought the database to its schema. Raises UnavailableError."""
    connection = await connect_as_owner(dsn)
    try:
        with translated():
            return await _has_migrations(connection)
    finally:
        await connection.close()


async def _has_migrations(connection: asyncpg.Connection) -> bool:
    found = await connection.fetchval("SELECT to_regclass('public.schema_migrations')::text")
    return found is not None


async def _check_server(connection: asyncpg.Connection) -> None:
    version = int(await connection.fetchval("SHOW server_version_num"))
    if version < SERVER_VERSION_MIN:
        raise MigrationError(f"PostgreSQL {version // 10_000} is too old, use 14 or later")
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise MigrationError(f"the database has encoding {encoding}, create it with UTF8")


async def _make_app_role(connection: asyncpg.Connection) -> None:
    """Roles belong to the cluster: another database's migration may make it at the same time."""
    try:
        exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", APP_ROLE)
        if exists is None:
            with contextlib.suppress(asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
                await connection.execute(f"CREATE ROLE {APP_ROLE} NOLOGIN")
        may = await connection.fetchval("SELECT pg_has_role($1, 'MEMBER')", APP_ROLE)
        if not may:
            await connection.execute(f"GRANT {APP_ROLE} TO CURRENT_USER")
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(
            f"the database user may not make or use the role {APP_ROLE}: as an administrator run "
            f"CREATE ROLE {APP_ROLE} NOLOGIN; GRANT {APP_ROLE} TO <the user>; ({error})"
        ) from error


async def _run_migrations(connection: asyncpg.Connection) -> None:
    if not await _has_migrations(connection):
        await connection.execute(
            "CREATE TABLE public.schema_migrations ("
            "version integer PRIMARY KEY, sha256 text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT now());"
            f"GRANT SELECT ON public.schema_migrations TO {APP_ROLE}"
        )
    rows = await connection.fetch("SELECT version, sha256 FROM public.schema_migrations")
    applied = {row["version"]: row["sha256"] for row in rows}
    files = migration_files()
    if unknown := applied.keys() - files.keys():
        raise MigrationError(
            f"the database has migration {max(unknown)}, this release ends at {max(files)}: "
            "run the newer release"
        )
    for version, text in files.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        if version in applied:
            if applied[version] != digest:
                raise MigrationError(f"migration {version} differs from the one that was applied")
            continue
        async with connection.transaction():
            await connection.execute(text)
            await connection.execute(
                "INSERT INTO public.schema_migrations (version, sha256) VALUES ($1, $2)",
                version,
                digest,
            )


def migration_files() -> dict[int, str]:
    """The text of each migration by number, in order."""
    folder = resources.files("contree.adapters.postgres") / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return {int(f.name.split("_", 1)[0]): f.read_text(encoding="utf-8") for f in files}
