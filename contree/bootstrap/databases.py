"""Where the database is, and bringing it to this release: schema, read models, audit index."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from contree import projections
from contree.adapters.postgres.embedded import EmbeddedPostgres, running_dsn
from contree.adapters.postgres.pool import APP_ROLE
from contree.adapters.postgres.rebuild import Progress, compare, rebuild
from contree.bootstrap.history import migrate_all, reset_audit_index
from contree.bootstrap.runtime_dir import runtime_dir
from contree.config import Settings
from contree.domain.errors import UnavailableError


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
    """Hold the data directory: one `serve` each. Raises UnavailableError when one runs."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
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
    """Give a migrated database: the configured one, or the embedded one.

    The embedded server is joined when it runs on this data directory, else started for the time of
    the context.
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


def running_database(settings: Settings) -> DatabaseUrls:
    """Where the embedded server of a running `serve` is. Raises UnavailableError."""
    if settings.database_url is not None:
        owner = settings.database_owner_url or settings.database_url
        return DatabaseUrls(app=settings.database_url, owner=owner)
    running = _running_urls(settings)
    if running is None:
        raise UnavailableError(
            f"no server runs on '{settings.data_dir}': start one with `contreed serve`, or set "
            "database_url"
        )
    return running


def _running_urls(settings: Settings) -> DatabaseUrls | None:
    app = running_dsn(settings.data_dir, user=APP_ROLE)
    owner = running_dsn(settings.data_dir)
    return None if app is None or owner is None else DatabaseUrls(app=app, owner=owner)


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild or check found, in words."""

    event_count: int
    differences: Sequence[str]


async def rebuild_projections(
    urls: DatabaseUrls, *, check: bool, progress: Progress | None = None
) -> RebuildReport:
    """Rebuild the read models, or only compare them with rebuilt ones.

    `progress` is called with the number of events folded so far, thousands at a time.
    """
    if check:
        compared = await compare(urls.owner, projections=projections.ALL, progress=progress)
        return RebuildReport(compared.event_count, [str(found) for found in compared.differences])
    rebuilt = await rebuild(urls.owner, projections=projections.ALL, progress=progress)
    await reset_audit_index(urls.owner)
    return RebuildReport(rebuilt.event_count, ())
