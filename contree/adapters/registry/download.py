"""A blob from a registry to a file: bounded, compared with its digest, resumed when it breaks off.

A registry that drips holds a place of this worker, so after GRACE_S a download must have come as
fast as RATE_BYTES_MIN a second on the average.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import time
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import aiohttp

from contree.adapters.registry.client import RegistryClient
from contree.adapters.registry.failures import refusal_of
from contree.adapters.registry.manifest import Descriptor
from contree.domain.errors import RegistryFailure, StorageFullError

TRIES_MAX = 5
"""Times that a download goes on, as long as each try brings something."""
GRACE_S = 60.0
RATE_BYTES_MIN = 16 * 1024
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


async def download(client: RegistryClient, blob: Descriptor, path: Path) -> None:
    """Write the blob to the new file `path`.

    Raises RegistryFailure, also when its size or digest is not the stated one; StorageFullError.
    """
    received = _Received(client.host, blob)
    with path.open("xb") as file:
        for last in range(TRIES_MAX, 0, -1):
            before = received.size_bytes
            try:
                await _try(client, received, file)
                break
            except _BrokenOffError as broken:
                if last == 1 or received.size_bytes == before:
                    raise broken.failure from broken
    received.check()


class _BrokenOffError(Exception):
    def __init__(self, failure: RegistryFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class _Received:
    """What has come of a blob so far, over all tries."""

    def __init__(self, host: str, blob: Descriptor) -> None:
        self.host = host
        self.blob = blob
        self.started = time.monotonic()
        self.size_bytes = 0
        self.digest = hashlib.sha256()

    def take(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        if self.size_bytes > self.blob.size:
            raise self._damaged("is not of its stated size")
        self.digest.update(piece)
        past = time.monotonic() - self.started - GRACE_S
        if past > 0 and self.size_bytes < past * RATE_BYTES_MIN:
            raise RegistryFailure(
                f"{self.host}: the registry is too slow: {self.size_bytes} bytes of"
                f" {self.blob.size} in {past + GRACE_S:.0f} s"
            )

    def check(self) -> None:
        if self.size_bytes != self.blob.size:
            raise self._damaged("is not of its stated size")
        if self.digest.hexdigest() != self.blob.hexdigest:
            raise self._damaged("does not have its digest")

    def _damaged(self, how: str) -> RegistryFailure:
        return RegistryFailure(
            f"{self.host}: the image is damaged: what the registry sent for {self.blob.digest}"
            f" {how}"
        )


async def _try(client: RegistryClient, received: _Received, file: BinaryIO) -> None:
    """Take what is missing of the blob, in one answer."""
    have = received.size_bytes
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        async with client.fetch(f"blobs/{received.blob.digest}", headers=headers) as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                raise RegistryFailure(
                    f"{client.host}: the image is damaged: the registry lacks"
                    f" {received.blob.digest}, a part of it"
                )
            skip = 0 if answer.status == HTTPStatus.PARTIAL_CONTENT else have
            if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT) or (
                answer.status == HTTPStatus.PARTIAL_CONTENT and not have
            ):
                raise refusal_of(answer.status, client.host, has_credentials=client.has_credentials)
            await _take(answer, received, file, skip=skip)
    except RegistryFailure as failure:
        if isinstance(failure.__cause__, aiohttp.ClientError | TimeoutError):
            raise _BrokenOffError(failure) from failure
        raise


async def _take(
    answer: aiohttp.ClientResponse, received: _Received, file: BinaryIO, *, skip: int
) -> None:
    async for piece in answer.content.iter_any():
        new, skip = piece[skip:], max(0, skip - len(piece))
        if new:
            received.take(new)
            try:
                await asyncio.to_thread(file.write, new)
            except OSError as error:
                raise _storage_failure(error) from error


def _storage_failure(error: OSError) -> Exception:
    if error.errno in NO_ROOM:
        return StorageFullError("no room left for the image on this worker")
    return error
