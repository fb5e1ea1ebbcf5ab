"""Where the database is, and bringing it to this release: schema, read models, audit index."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from contree import projections
from contree.adapters.postgres.embedded import EmbeddedPostgres, is_made, running_dsn
from contree.adapters.postgres.migrate import is_migrated
from contree.adapters.postgres.pool import APP_ROLE
from contree.adapters.postgres.rebuild import Progress, compare, rebuild
from contree.bootstrap.data_dir import private_data_dir
from contree.bootstrap.history import compare_audit_index, migrate_all, reset_audit_index
from contree.bootstrap.runtime_dir import runtime_dir
from contree.config import Settings
from contree.domain.errors import ContreeError, UnavailableError


class NoInstallationError(ContreeError):
    """Nothing was ever started on this data directory, or this database; the text names it."""

    code = "no_installation"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrls:
    """Where the database is. `app` is the service's way in, `owner` may migrate and rebuild.

    Of the embedded server `app` is a login of the restricted role: no session of the service can
    become the owner. With a database of one's own both may be the same.
    """

    app: str
    owner: str


@asynccontextmanager
async def owned_data_dir(settings: Settings) -> AsyncIterator[None]:
    """Hold the data directory: one `serve` each.

    Raises UnavailableError when one runs, and as `private_data_dir`.
    """
    private_data_dir(settings)
    descriptor = os.open(settings.data_dir / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(
                f"another `contreed serve` runs on '{settings.data_dir}'"
            ) from None
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[DatabaseUrls]:
    """Give a migrated database: the configured one, or the embedded one, which is made if need be.

    The embedded server is joined when it runs on this data directory, else started for the time of
    the context. It is for what serves or works; all other commands take `installed_database`.
    """
    if settings.database_url is not None:
        owner = settings.database_owner_url or settings.database_url
        urls = DatabaseUrls(app=settings.database_url, owner=owner)
        await migrate_all(urls.owner)
        yield urls
        return
    running = _running_urls(settings)
    if running is not None:
        yield running
        return
    with runtime_dir(settings) as sockets:
        server = EmbeddedPostgres(settings.data_dir, sockets / "postgres")
        await server.start()
        keeper = asyncio.create_task(server.supervise())
        try:
            await migrate_all(server.dsn, app_logs_in=True)
            yield DatabaseUrls(app=server.app_dsn, owner=server.dsn)
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await server.stop()


@asynccontextmanager
async def installed_database(settings: Settings) -> AsyncIterator[DatabaseUrls]:
    """As `database`, where there is one already; a mistyped place is never made into another.

    As `require_installation`.
    """
    await require_installation(settings)
    async with database(settings) as urls:
        yield urls


async def require_installation(settings: Settings) -> None:
    """Raise NoInstallationError, having made nothing, where none was ever started."""
    if settings.database_url is None:
        _require_data_dir(settings)
    elif not await is_migrated(settings.database_url):
        raise NoInstallationError(
            "no installation in the database of database_url: start one with `contreed api`, or "
            "name another"
        )


def running_database(settings: Settings) -> DatabaseUrls:
    """Where the embedded server of a running `serve` is.

    Raises NoInstallationError, UnavailableError.
    """
    if settings.database_url is not None:
        owner = settings.database_owner_url or settings.database_url
        return DatabaseUrls(app=settings.database_url, owner=owner)
    _require_data_dir(settings)
    running = _running_urls(settings)
    if running is None:
        raise UnavailableError(
            f"no server runs on '{settings.data_dir}': start one with `contreed serve`, or set "
            "database_url"
        )
    return running


def is_installed(settings: Settings) -> bool:
    """Whether there is a database to ask: a configured one, or one that `serve` has made."""
    return settings.database_url is not None or is_made(settings.data_dir)


def _require_data_dir(settings: Settings) -> None:
    if not is_made(settings.data_dir):
        raise NoInstallationError(
            f"no installation in '{settings.data_dir}': start one with `contreed serve --data-dir "
            f"{settings.data_dir}`, name another with --data-dir, or set database_url"
        )


def _running_urls(settings: Settings) -> DatabaseUrls | None:
    app = running_dsn(settings.data_dir, user=APP_ROLE)
    owner = running_dsn(settings.data_dir)
    return None if app is None or owner is None else DatabaseUrls(app=app, owner=owner)


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild or check found; lines of text for an operator.

    compared      what a check compared, up to where, and how many rows
    differences   none when all is equal, and after a rebuild
    """

    event_count: int
    compared: Sequence[str] = ()
    differences: Sequence[str] = ()


async def rebuild_projections(
    urls: DatabaseUrls, *, check: bool, progress: Progress | None = None
) -> RebuildReport:
    """Rebuild the read models and the audit index, or only compare them with rebuilt ones.

    `progress` is called with the number of events folded so far, thousands at a time; a check folds
    the log twice.
    """
    if check:
        return await _checked(urls, progress)
    rebuilt = await rebuild(urls.owner, projections=projections.ALL, progress=progress)
    await reset_audit_index(urls.owner)
    return RebuildReport(rebuilt.event_count)


async def _checked(urls: DatabaseUrls, progress: Progress | None) -> RebuildReport:
    models = await compare(urls.owner, projections=projections.ALL, progress=progress)

    def further(event_count: int) -> None:
        if progress is not None:
            progress(models.event_count + event_count)

    index = await compare_audit_index(urls.owner, progress=further)
    reached = f"to position {index.position} of {index.head}"
    if index.position < index.head:
        reached += ", the rest is still to be folded"
    return RebuildReport(
        event_count=models.event_count,
        compared=(
            f"read models: {_counted(models.row_counts)}",
            f"audit index, {reached}: {_counted(index.row_counts)}",
        ),
        differences=[str(found) for found in (*models.differences, *index.differences)],
    )


def _counted(row_counts: Mapping[str, int]) -> str:
    return ", ".join(f"{table} {count}" for table, count in row_counts.items())
