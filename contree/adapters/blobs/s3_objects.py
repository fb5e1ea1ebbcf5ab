"""Objects in one S3 bucket, by key: what the blob store of a fleet is made of.

S3 shows an object only when all of it has arrived, and an upload in parts that fails is aborted.
The bucket exists already; nothing here creates or removes buckets.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from contree.adapters.blobs.spool import Spool
from contree.app.content.blob_store import READ_CHUNK_BYTES
from contree.domain.errors import NotFoundError, UnavailableError

PART_BYTES: Final = 32 * 1024**2
"""Size of an upload's parts: at most 10,000 of them make 312 GiB."""

_ATTEMPTS: Final = 4
_CONNECT_S: Final = 5
_READ_S: Final = 60
_NOT_FOUND: Final = ("404", "NoSuchKey", "NotFound")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """Where the bucket is. Without keys, the SDK's usual places (environment, instance) are asked.

    endpoint_url  None for AWS itself, or what the SDK finds in its environment
    region        None for what the SDK finds
    prefix        begins every key, as `contree/`
    """

    bucket: str
    endpoint_url: str | None = None
    region: str | None = "us-east-1"
    prefix: str = ""
    access_key_id: str | None = None
    secret_access_key: str | None = None

    def __repr__(self) -> str:
        return f"{self.endpoint_url or 's3:/'}/{self.bucket}/{self.prefix}"


@asynccontextmanager
async def open_objects(
    place: S3Place, *, spool: Path, attempts: int | None = None
) -> AsyncIterator[S3Objects]:
    """Give objects whose connections live as long as the context. `spool` is a local directory."""
    spool.mkdir(parents=True, exist_ok=True)
    async with s3_client(place, attempts=attempts or _ATTEMPTS) as client:
        yield S3Objects(client, place, spool)


@asynccontextmanager
async def s3_client(place: S3Place, *, attempts: int = _ATTEMPTS) -> AsyncIterator[Any]:
    """Give the SDK's client of the bucket's service."""
    config = AioConfig(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"max_attempts": attempts, "mode": "standard"},
        # Other services than AWS's lag behind in checksums; readers verify what they read.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    async with get_session().create_client(
        "s3",
        region_name=place.region,
        endpoint_url=place.endpoint_url,
        aws_access_key_id=place.access_key_id,
        aws_secret_access_key=place.secret_access_key,
        config=config,
    ) as client:
        yield client


class S3Objects:
    """Made by `open_objects`. Every method raises UnavailableError."""

    def __init__(self, client: Any, place: S3Place, spool: Path) -> None:
        self.spool = spool
        self._client = client
        self._place = place

    async def check(self) -> None:
        """Look whether the bucket is there. Raises UnavailableError."""
        try:
            await self._call(self._client.head_bucket(Bucket=self._place.bucket))
        except _Absent as error:
            raise UnavailableError(f"{self._place}: there is no such bucket") from error

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield an object's bytes, or those of a part that it has. Raises NotFoundError at the
        first step.
        """
        wanted = self._object(key)
        if start or stop is not None:
            wanted["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            answer = await self._call(self._client.get_object(**wanted))
        except _Absent as error:
            raise NotFoundError("content", key) from error
        async with answer["Body"] as body:
            while piece := await self._call(body.read(READ_CHUNK_BYTES)):
                yield piece

    async def put_at(self, key: str) -> datetime | None:
        """When the object was written; None when there is none."""
        try:
            found = await self._call(self._client.head_object(**self._object(key)))
        except _Absent:
            return None
        at: datetime = found["LastModified"]
        return at

    async def write(self, key: str, spool: Spool) -> None:
        """Write an object, or write it again."""
        target = self._object(key)
        if spool.size_bytes <= PART_BYTES:
            body = await asyncio.to_thread(os.pread, spool.descriptor, PART_BYTES, 0)
            await self._call(self._client.put_object(**target, Body=body))
        else:
            await self._write_parts(spool, target)

    async def remove(self, key: str) -> int | None:
        """Remove an object and return its size; None when there is none."""
        try:
            found = await self._call(self._client.head_object(**self._object(key)))
        except _Absent:
            return None
        await self._call(self._client.delete_object(**self._object(key)))
        return int(found["ContentLength"])

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with `prefix`."""
        wanted = {"Bucket": self._place.bucket, "Prefix": self._place.prefix + prefix}
        while True:
            page = await self._call(self._client.list_objects_v2(**wanted))
            for found in page.get("Contents", ()):
                yield found["Key"].removeprefix(self._place.prefix)
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    async def _write_parts(self, spool: Spool, target: dict[str, str]) -> None:
        started = await self._call(self._client.create_multipart_upload(**target))
        upload = {**target, "UploadId": started["UploadId"]}
        try:
            parts = []
            for number, offset in enumerate(range(0, spool.size_bytes, PART_BYTES), start=1):
                body = await asyncio.to_thread(os.pread, spool.descriptor, PART_BYTES, offset)
                answer = await self._call(
                    self._client.upload_part(**upload, PartNumber=number, Body=body)
                )
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            await self._call(
                self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            )
        except BaseException:
            # Also when cancelled: parts of an upload that nobody ends are stored, and paid for.
            await asyncio.shield(self._call(self._client.abort_multipart_upload(**upload)))
            raise

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": self._place.prefix + key}

    async def _call(self, call: Awaitable[T]) -> T:
        with self._translated():
            return await call

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Give the driver's errors our names; what is not known means that it is not available."""
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _NOT_FOUND:
                raise _Absent from error
            raise UnavailableError(f"{self._place} answered {code}") from error
        except (BotoCoreError, HTTPClientError, OSError, TimeoutError) as error:
            raise UnavailableError(f"{self._place} cannot be reached") from error


class _Absent(Exception):  # noqa: N818 - an answer, not a fault
    pass
