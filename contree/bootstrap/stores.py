"""Where a deployment's content and layers are: below the data directory, or in what hosts share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from contree.adapters.blobs.directory_blobs import DirectoryBlobStore
from contree.adapters.layers.shared import SharedLayers
from contree.app.content.blob_store import BlobStore
from contree.app.outages import Outages
from contree.config import Settings
from contree.domain.errors import InvalidFieldError

S3: Final = "s3://"

Alone = Callable[[str], AbstractAsyncContextManager[None]]
Check = Callable[[], Awaitable[None]]
"""Raises UnavailableError when what was checked cannot be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where content is, and what the hosts share.

    layers  None where this host has the only ones
    check   of what is not on this host
    """

    blobs: BlobStore
    layers: SharedLayers | None
    check: Check


@asynccontextmanager
async def open_stores(settings: Settings, alone: Alone, outages: Outages) -> AsyncIterator[Stores]:
    """Open what `store` says. Raises InvalidFieldError, and UnavailableError for no such bucket."""
    if settings.store is None:
        if settings.layer_cache_gib is not None:
            raise InvalidFieldError(
                "layer_cache_gib", "bounds copies of what a store has: set store, or leave it out"
            )
        blobs = DirectoryBlobStore(settings.data_dir / "content")
        yield Stores(blobs=blobs, layers=None, check=_nothing_away)
        return
    if not settings.store.startswith(S3):
        raise InvalidFieldError("store", f"'{settings.store}' is not s3://BUCKET/PREFIX")
    bucket, prefix = bucket_and_prefix("store", settings.store)
    # Only here: the SDK would add a fifth to the imports of every start.
    from contree.adapters.blobs.s3_blobs import open_s3_blobs
    from contree.adapters.blobs.s3_objects import S3Place

    place = S3Place(bucket=bucket, prefix=prefix, region=None)
    spool = settings.data_dir / "spool"
    async with open_s3_blobs(place, spool=spool, alone=alone) as shared:
        await shared.check()
        yield Stores(blobs=shared, layers=SharedLayers(shared, outages), check=shared.check)


def bucket_and_prefix(setting: str, place: str) -> tuple[str, str]:
    """Return both of s3://BUCKET/PREFIX, the prefix as keys begin. Raises InvalidFieldError."""
    bucket, _, prefix = place.removeprefix(S3).partition("/")
    if not bucket:
        raise InvalidFieldError(setting, f"'{place}' is not s3://BUCKET/PREFIX")
    return bucket, prefix.rstrip("/") + "/" if prefix else ""


async def _nothing_away() -> None:
    """All of it is on this host."""
