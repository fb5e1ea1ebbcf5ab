"""The BlobStore contract, on the fake, a directory, and S3 (moto's server on a loopback port)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from contree.adapters.blobs.directory_blobs import DirectoryBlobStore
from contree.adapters.blobs.s3_blobs import S3BlobStore, open_s3_blobs
from contree.adapters.blobs.s3_objects import PART_BYTES, S3Objects, S3Place, open_objects
from contree.adapters.blobs.spool import Spool, sweep
from contree.app.content.blob_store import READ_CHUNK_BYTES, BlobStore, Removed
from contree.domain.errors import NotFoundError, UnavailableError
from tests.fakes.blob_store import FakeBlobStore
from tests.fakes.clock import FakeIds
from tests.support.layer_tars import collected, stream_of

IDS = FakeIds(space=0xB10B)
NAME, OTHER = "a" * 64, "b" * 64
LARGE = bytes(range(256)) * 4096
LATER = timedelta(hours=1)


class Moments:
    """Keeps the tasks of one process apart, as the database does those of a fleet."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        async with self._locks.setdefault(name, asyncio.Lock()):
            yield


@pytest.fixture(params=["fake", "directory", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    if request.param == "fake":
        yield FakeBlobStore()
    elif request.param == "directory":
        yield DirectoryBlobStore(tmp_path / "content")
    else:
        place: S3Place = request.getfixturevalue("s3_place")
        async with open_s3_blobs(place, spool=tmp_path / "spool", alone=Moments().alone) as s3:
            yield s3


@pytest.fixture
def space() -> UUID:
    return IDS.new_id()


async def put(store: BlobStore, space: UUID, data: bytes, name: str = NAME) -> None:
    await store.put(space, stream_of(data, 70_000), name=lambda: name)


@pytest.mark.parametrize("data", [b"", b"x", LARGE])
async def test_what_was_put_is_read_back_in_bounded_chunks(
    store: BlobStore, space: UUID, data: bytes
) -> None:
    await put(store, space, data)
    chunks = [chunk async for chunk in store.read(space, NAME)]
    assert b"".join(chunks) == data
    assert max(map(len, chunks), default=0) <= READ_CHUNK_BYTES
    assert await store.has(space, NAME)


async def test_a_part_is_read_without_the_rest(store: BlobStore, space: UUID) -> None:
    await put(store, space, LARGE)
    for start, stop in (
        (0, 36),
        (1, 2),
        (70_001, None),
        (300_000, 900_000),
        (len(LARGE) - 1, None),
    ):
        chunks = [chunk async for chunk in store.read(space, NAME, start=start, stop=stop)]
        assert b"".join(chunks) == LARGE[start:stop]
        assert max(map(len, chunks)) <= READ_CHUNK_BYTES
    with pytest.raises(NotFoundError):
        await anext(store.read(space, OTHER, start=5))


async def test_a_name_is_asked_for_after_the_last_chunk(store: BlobStore, space: UUID) -> None:
    came: list[bytes] = []

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"one", b"two"):
            came.append(chunk)
            yield chunk

    def name() -> str:
        assert came == [b"one", b"two"]
        return NAME

    await store.put(space, chunks(), name=name)
    assert await collected(store.read(space, NAME)) == b"onetwo"


async def test_a_name_that_is_there_keeps_its_bytes(store: BlobStore, space: UUID) -> None:
    await put(store, space, b"first")
    await put(store, space, b"second")
    assert await collected(store.read(space, NAME)) == b"first"


async def test_spaces_are_apart(store: BlobStore, space: UUID) -> None:
    await put(store, space, b"x")
    other = IDS.new_id()
    assert not await store.has(other, NAME)
    with pytest.raises(NotFoundError):
        await collected(store.read(other, NAME))


@pytest.mark.parametrize("name", [OTHER, "", "../../etc/passwd", "A" * 64])
async def test_absent_and_impossible_names_are_not_found(
    store: BlobStore, space: UUID, name: str
) -> None:
    assert not await store.has(space, name)
    with pytest.raises(NotFoundError):
        await collected(store.read(space, name))


async def test_an_interrupted_put_keeps_nothing_and_its_error_comes_out(
    store: BlobStore, space: UUID
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield os.urandom(100_000)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.put(space, broken(), name=lambda: NAME)
    assert not await store.has(space, NAME)
    assert await store.clear(space) == Removed()


async def test_what_was_put_long_ago_is_removed(store: BlobStore, space: UUID) -> None:
    await put(store, space, b"four")
    gone = await store.remove(space, NAME, put_before=datetime.now(UTC) + LATER)
    assert gone == Removed(blob_count=1, blob_bytes=4)
    assert not await store.has(space, NAME)
    assert await store.remove(space, NAME, put_before=datetime.now(UTC) + LATER) == Removed()


async def test_what_was_put_lately_stays(store: BlobStore, space: UUID) -> None:
    await put(store, space, b"four")
    assert await store.remove(space, NAME, put_before=datetime.now(UTC) - LATER) is None
    assert await collected(store.read(space, NAME)) == b"four"


async def test_what_is_there_is_put_again_without_its_bytes(store: BlobStore, space: UUID) -> None:
    assert not await store.put_again(space, NAME)
    await put(store, space, b"four")
    before = datetime.now(UTC).replace(microsecond=0)  # S3 has whole seconds
    assert await store.put_again(space, NAME)
    assert not await store.put_again(IDS.new_id(), NAME)
    assert await store.remove(space, NAME, put_before=before) is None
    assert await collected(store.read(space, NAME)) == b"four"


async def test_clearing_leaves_the_other_spaces(store: BlobStore, space: UUID) -> None:
    other = IDS.new_id()
    await put(store, space, b"one")
    await put(store, space, b"three", OTHER)
    await put(store, other, b"x")
    assert await store.clear(space) == Removed(blob_count=2, blob_bytes=8)
    assert not await store.has(space, NAME)
    assert await store.has(other, NAME)
    assert await store.clear(space) == Removed()


async def test_a_directory_takes_what_is_put_again_for_new(tmp_path: Path, space: UUID) -> None:
    store = DirectoryBlobStore(tmp_path)
    await put(store, space, b"old")
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    os.utime(file, (0, 0))
    await put(store, space, b"new")
    assert await store.remove(space, NAME, put_before=datetime.now(UTC) - LATER) is None
    os.utime(file, (0, 0))
    assert await store.put_again(space, NAME)
    assert await store.remove(space, NAME, put_before=datetime.now(UTC) - LATER) is None
    os.utime(file, (0, 0))
    assert await store.remove(space, NAME, put_before=datetime.now(UTC) - LATER) is not None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_a_removal_that_was_killed_is_ended_by_the_next(tmp_path: Path, space: UUID) -> None:
    store = DirectoryBlobStore(tmp_path)
    await put(store, space, b"half")
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    file.rename(file.with_name(file.name + ".going"))
    gone = await store.remove(space, NAME, put_before=datetime.now(UTC) + LATER)
    assert gone == Removed(blob_count=1, blob_bytes=4)


async def test_s3_takes_what_is_put_again_for_new(s3_place: S3Place, tmp_path: Path) -> None:
    space = IDS.new_id()
    async with open_objects(s3_place, spool=tmp_path) as objects:
        store = S3BlobStore(objects, alone=Moments().alone, refresh=timedelta(0))
        key = f"{space.hex}/{NAME}"
        await put(store, space, b"one")
        await put(store, space, b"two")
        assert await collected(objects.read(key)) == b"two"


class Putting(S3BlobStore):
    """Has looked already, and found nothing that it could leave as it is."""

    async def put_again(self, *_: object) -> bool:
        return False


class MetOnTheWay(S3Objects):
    """Lets a put come in between a removal's look and its removing."""

    def __init__(self, objects: S3Objects) -> None:
        super().__init__(objects._client, objects._place, objects.spool)
        self.looked = asyncio.Event()
        self.written = asyncio.Event()

    async def write(self, key: str, spool: Spool) -> None:
        await super().write(key, spool)
        self.written.set()

    async def remove(self, key: str) -> int | None:
        self.looked.set()
        await self.written.wait()
        return await super().remove(key)


async def test_what_is_put_while_it_is_removed_from_s3_is_there(
    s3_place: S3Place, tmp_path: Path
) -> None:
    space, moments = IDS.new_id(), Moments()
    async with open_objects(s3_place, spool=tmp_path) as objects:
        met = MetOnTheWay(objects)
        remover = S3BlobStore(met, alone=moments.alone, refresh=timedelta(0))
        await put(remover, space, b"old")
        met.written.clear()
        later = datetime.now(UTC) + LATER
        removing = asyncio.create_task(remover.remove(space, NAME, put_before=later))
        await met.looked.wait()
        # It is written; then it is removed, since it was found old; so it is written again.
        await Putting(met, alone=moments.alone).put(space, stream_of(b"old", 3), name=lambda: NAME)
        assert await removing == Removed(blob_count=1, blob_bytes=3)
        assert await collected(remover.read(space, NAME)) == b"old"


async def test_s3_takes_content_of_several_parts(s3_place: S3Place, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * (PART_BYTES // (1 << 20) + 2)
    space = IDS.new_id()
    async with open_s3_blobs(s3_place, spool=tmp_path, alone=Moments().alone) as store:
        await store.put(space, stream_of(data, 1 << 20), name=lambda: NAME)
        assert await collected(store.read(space, NAME)) == data


async def test_s3_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    place = S3Place(
        bucket="b",
        endpoint_url="http://127.0.0.1:1",
        access_key_id="key",
        secret_access_key="not to be shown",
    )
    async with open_s3_blobs(place, spool=tmp_path, alone=Moments().alone, attempts=1) as store:
        for asking in (store.check(), store.has(IDS.new_id(), NAME)):
            with pytest.raises(UnavailableError) as caught:
                await asking
            assert "not to be shown" not in str(caught.value)


async def test_a_bucket_that_is_not_there_is_unavailable(s3_place: S3Place, tmp_path: Path) -> None:
    place = replace(s3_place, bucket="missing")
    async with open_s3_blobs(place, spool=tmp_path, alone=Moments().alone) as store:
        with pytest.raises(UnavailableError, match="no such bucket"):
            await store.check()
        with pytest.raises(UnavailableError):
            await put(store, IDS.new_id(), b"x")


async def test_a_named_spool_is_kept_or_swept(tmp_path: Path) -> None:
    """Where the filesystem has no O_TMPFILE."""
    target = tmp_path / "ab" / "kept"
    with Spool(tmp_path, nameless=False) as spool:
        spool.write(b"data")
        assert sweep(tmp_path) == 0, "it is in use"
        spool.keep(target)
    assert target.read_bytes() == b"data"
    left = tmp_path / ".spool" / "left-by-a-killed-process"
    left.write_bytes(b"half")
    assert sweep(tmp_path) == 1
    assert not left.exists()
