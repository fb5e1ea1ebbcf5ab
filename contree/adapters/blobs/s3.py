"""The content store of a fleet: `contree.app.content_store.ContentStore` in one S3 bucket.

An object's key is the prefix and its SHA-256. A name must be known before an object is written, so
content goes through a local spool first; S3 shows an object only when all of it has arrived, and an
upload in parts that fails is aborted. Content is immutable, so an object that is there is not
written again. The bucket exists already; nothing here creates or removes buckets or objects.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from contree.adapters.blobs.digests import checked
from contree.adapters.blobs.spool import Spool, uninterrupted
from contree.app.content_store import READ_CHUNK_BYTES, Content
from contree.domain.errors import NotFoundError, UnavailableError

PART_BYTES: Final = 32 * 1024**2
"""Size of an upload's parts: at most 10,000 of them make 312 GiB."""

_ATTEMPTS: Final = 4
_CONNECT_S: Final = 5
_READ_S: Final = 60
_NOT_FOUND: Final = ("404", "NoSuchKey", "NotFound")
_PAST_THE_END: Final = ("416", "InvalidRange")

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
        return f"S3Place({self.endpoint_url or 'AWS'}, {self.bucket}/{self.prefix})"


@asynccontextmanager
async def open_s3(
    place: S3Place, *, spool: Path, attempts: int = _ATTEMPTS
) -> AsyncIterator[S3ContentStore]:
    """Give a store whose connections live as long as the context. `spool` is a local directory."""
    spool.mkdir(parents=True, exist_ok=True)
    async with s3_client(place, attempts=attempts) as client:
        yield S3ContentStore(client, place, spool)


@asynccontextmanager
async def s3_client(place: S3Place, *, attempts: int = _ATTEMPTS) -> AsyncIterator[Any]:
    """Give the SDK's client of the bucket's service."""
    config = AioConfig(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"max_attempts": attempts, "mode": "standard"},
        # Other services than AWS's lag behind in checksums; keys are SHA-256 already.
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


class S3ContentStore:
    """Implements ContentStore; made by `open_s3`."""

    def __init__(self, client: Any, place: S3Place, spool: Path) -> None:
        self._client = client
        self._place = place
        self._spool = spool

    async def put(self, chunks: AsyncIterator[bytes], *, bytes_max: int) -> Content:
        with Spool(self._spool) as spool:
            await spool.fill(chunks, bytes_max=bytes_max)
            return await self._upload(spool)

    async def put_bytes(self, data: bytes) -> Content:
        with Spool(self._spool) as spool:
            await uninterrupted(partial(spool.write, data))
            return await self._upload(spool)

    async def read(
        self, sha256: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        wanted = dict(self._object(sha256))
        if length is not None and length <= 0:
            if not await self.has(sha256):
                raise NotFoundError("content", sha256)
            return
        if offset or length is not None:
            last = "" if length is None else str(offset + length - 1)
            wanted["Range"] = f"bytes={offset}-{last}"
        try:
            answer = await self._call(self._client.get_object(**wanted))
        except _Absent as error:
            raise NotFoundError("content", sha256) from error
        except _PastTheEnd:
            return
        async with answer["Body"] as body:
            while piece := await self._call(body.read(READ_CHUNK_BYTES)):
                yield piece

    async def read_bytes(self, sha256: str) -> bytes:
        return b"".join([piece async for piece in self.read(sha256)])

    async def has(self, sha256: str) -> bool:
        try:
            await self._call(self._client.head_object(**self._object(sha256)))
        except (_Absent, NotFoundError):
            return False
        return True

    async def _upload(self, spool: Spool) -> Content:
        content = Content(sha256=spool.sha256, size_bytes=spool.size_bytes)
        if await self.has(content.sha256):
            return content
        target = self._object(content.sha256)
        if content.size_bytes <= PART_BYTES:
            body = await asyncio.to_thread(os.pread, spool.descriptor, PART_BYTES, 0)
            await self._call(self._client.put_object(**target, Body=body))
        else:
            await self._upload_parts(spool, target)
        return content

    async def _upload_parts(self, spool: Spool, target: dict[str, str]) -> None:
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

    def _object(self, sha256: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": self._place.prefix + checked(sha256)}

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
            if code in _PAST_THE_END:
                raise _PastTheEnd from error
            raise UnavailableError(f"{self._place} answered {code}") from error
        except (BotoCoreError, HTTPClientError, OSError, TimeoutError) as error:
            raise UnavailableError(f"{self._place} cannot be reached") from error


class _Absent(Exception):  # noqa: N818 - an answer, not a fault
    pass


class _PastTheEnd(Exception):  # noqa: N818 - an answer, not a fault
    pass
