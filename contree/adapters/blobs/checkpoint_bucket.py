"""Checkpoints in an S3 bucket (app.proof.checkpoint_store.CheckpointStore), one object each.

Written with `If-None-Match: *`, which the service must know: an object that is there stays. With a
bucket under object lock, or in another account, not even this service's own credentials can remove
one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from contree.adapters.blobs.checkpoint_names import name_of, size_in
from contree.adapters.blobs.s3_objects import S3Place, s3_client
from contree.app.proof.checkpoint_store import CheckpointExistsError
from contree.domain.errors import NotFoundError, UnavailableError

_NOT_FOUND = ("404", "NoSuchKey", "NotFound")
_TAKEN = ("412", "PreconditionFailed", "ConditionalRequestConflict")


@asynccontextmanager
async def open_checkpoint_bucket(
    place: S3Place, *, attempts: int = 4
) -> AsyncIterator[S3CheckpointStore]:
    """Give a store whose connections live as long as the context."""
    async with s3_client(place, attempts=attempts) as client:
        yield S3CheckpointStore(client, place)


class S3CheckpointStore:
    """Made by `open_checkpoint_bucket`."""

    def __init__(self, client: Any, place: S3Place) -> None:
        self._client = client
        self._place = place

    async def put(self, size: int, note: bytes) -> None:
        try:
            with self._translated(size):
                await self._client.put_object(**self._object(size), Body=note, IfNoneMatch="*")
        except _TakenError:
            if await self.read(size) != note:
                raise CheckpointExistsError(
                    f"there is another checkpoint over {size} events"
                ) from None

    async def read(self, size: int) -> bytes:
        with self._translated(size):
            answer = await self._client.get_object(**self._object(size))
            data: bytes = await answer["Body"].read()
            return data

    async def sizes(self, *, after: int = -1) -> Sequence[int]:
        start = self._place.prefix + name_of(after) if after >= 0 else ""
        found: list[int] = []
        with self._translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._place.bucket, Prefix=self._place.prefix, StartAfter=start
            )
            async for page in pages:
                keys = [x["Key"] for x in page.get("Contents", ())]
                names = (key.removeprefix(self._place.prefix) for key in keys)
                found += [size for size in map(size_in, names) if size is not None and size > after]
        return found

    def _object(self, size: int) -> dict[str, Any]:
        return {"Bucket": self._place.bucket, "Key": self._place.prefix + name_of(size)}

    @contextmanager
    def _translated(self, size: int | None = None) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _NOT_FOUND:
                raise NotFoundError("checkpoint", size) from error
            if code in _TAKEN:
                raise _TakenError from error
            raise UnavailableError(f"{self._place} answered {code}") from error
        except (BotoCoreError, HTTPClientError, OSError, TimeoutError) as error:
            raise UnavailableError(f"{self._place} cannot be reached") from error


class _TakenError(Exception):
    pass
