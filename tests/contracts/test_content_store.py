"""Built as one suite over the fake, a directory, and S3 (moto's server on a free loopback port)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contree.adapters.blobs.directory import DirectoryContentStore
from contree.adapters.blobs.s3 import PART_BYTES, S3Place, open_s3
from contree.adapters.blobs.spool import Spool, sweep
from contree.app.content.content_store import READ_CHUNK_BYTES, ContentStore
from contree.domain.errors import LimitExceededError, NotFoundError, UnavailableError
from tests.fakes.content_store import FakeContentStore
from tests.support.layer_tars import collected, stream_of

ABSENT = "0" * 64
LARGE = bytes(range(256)) * 4096  # 1 MiB: several chunks of every kind
NO_LIMIT = 1 << 40


@pytest.fixture(params=["fake", "directory", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ContentStore]:
    if request.param == "fake":
        yield FakeContentStore()
    elif request.param == "directory":
        yield DirectoryContentStore(tmp_path / "content")
    else:
        place: S3Place = request.getfixturevalue("s3_place")
        async with open_s3(place, spool=tmp_path / "spool") as s3:
            yield s3


@pytest.mark.parametrize("data", [b"", b"x", LARGE])
async def test_what_was_put_is_read_back_under_its_digest(store: ContentStore, data: bytes) -> None:
    content = await store.put(stream_of(data, 70_000), bytes_max=NO_LIMIT)

    assert content.sha256 == hashlib.sha256(data).hexdigest()
    assert content.size_bytes == len(data)
    assert await store.read_bytes(content.sha256) == data
    assert await store.has(content.sha256)


async def test_put_bytes_and_put_name_the_same_content_alike(store: ContentStore) -> None:
    assert await store.put_bytes(LARGE) == await store.put(stream_of(LARGE), bytes_max=NO_LIMIT)
    assert await store.put_bytes(LARGE) == await store.put_bytes(LARGE)


async def test_reading_comes_in_bounded_chunks(store: ContentStore) -> None:
    content = await store.put_bytes(LARGE)
    sizes = [len(chunk) async for chunk in store.read(content.sha256)]
    assert sum(sizes) == len(LARGE)
    assert max(sizes) <= READ_CHUNK_BYTES


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 10), (5, None), (100, 300_000), (len(LARGE) - 1, 50), (len(LARGE), None), (7, 0)],
)
async def test_a_range_is_a_slice(store: ContentStore, offset: int, length: int | None) -> None:
    content = await store.put_bytes(LARGE)
    got = await collected(store.read(content.sha256, offset=offset, length=length))
    assert got == LARGE[offset : None if length is None else offset + length]


@pytest.mark.parametrize("name", [ABSENT, "", "../../etc/passwd", "A" * 64])
async def test_absent_and_impossible_names_are_not_found(store: ContentStore, name: str) -> None:
    assert not await store.has(name)
    with pytest.raises(NotFoundError):
        await store.read_bytes(name)
    with pytest.raises(NotFoundError):
        await collected(store.read(name, length=0))


async def test_the_limit_is_inclusive_and_past_it_nothing_is_kept(store: ContentStore) -> None:
    data = os.urandom(5000)
    with pytest.raises(LimitExceededError):
        await store.put(stream_of(data), bytes_max=4999)
    assert not await store.has(hashlib.sha256(data).hexdigest())
    await store.put(stream_of(data), bytes_max=5000)
    assert await store.has(hashlib.sha256(data).hexdigest())


async def test_an_interrupted_stream_keeps_nothing_and_its_error_comes_out(
    store: ContentStore,
) -> None:
    data = os.urandom(3_000_000)

    async def broken() -> AsyncIterator[bytes]:
        yield data
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.put(broken(), bytes_max=NO_LIMIT)
    assert not await store.has(hashlib.sha256(data).hexdigest())


async def test_a_cancelled_put_keeps_nothing(store: ContentStore) -> None:
    data = os.urandom(3_000_000)
    reached = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield data
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put(stuck(), bytes_max=NO_LIMIT))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await store.has(hashlib.sha256(data).hexdigest())


async def test_many_put_the_same_at_once(store: ContentStore) -> None:
    data = os.urandom(200_000)
    puts = [store.put(stream_of(data, 9000), bytes_max=NO_LIMIT) for _ in range(8)]
    contents = await asyncio.gather(*puts)
    assert len(set(contents)) == 1
    assert await store.read_bytes(contents[0].sha256) == data


async def test_a_directory_holds_nothing_but_whole_content(tmp_path: Path) -> None:
    store = DirectoryContentStore(tmp_path)
    content = await store.put_bytes(b"whole")
    with pytest.raises(LimitExceededError):
        await store.put(stream_of(bytes(5000)), bytes_max=100)
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [content.sha256]


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


async def test_s3_takes_content_of_several_parts(s3_place: S3Place, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * (PART_BYTES // (1 << 20) + 2)
    async with open_s3(s3_place, spool=tmp_path / "spool") as store:
        content = await store.put(stream_of(data, 1 << 20), bytes_max=NO_LIMIT)
        tail = await collected(store.read(content.sha256, offset=PART_BYTES - 5, length=10))
        assert tail == data[PART_BYTES - 5 : PART_BYTES + 5]
        assert content.sha256 == hashlib.sha256(data).hexdigest()


async def test_s3_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    place = S3Place(
        bucket="b",
        endpoint_url="http://127.0.0.1:1",
        access_key_id="key",
        secret_access_key="not to be shown",
    )
    async with open_s3(place, spool=tmp_path, attempts=1) as store:
        with pytest.raises(UnavailableError) as caught:
            await store.has(ABSENT)
    assert "not to be shown" not in str(caught.value)


async def test_a_bucket_that_is_not_there_is_unavailable(s3_place: S3Place, tmp_path: Path) -> None:
    place = S3Place(
        bucket="missing",
        endpoint_url=s3_place.endpoint_url,
        access_key_id="key",
        secret_access_key="secret",
    )
    async with open_s3(place, spool=tmp_path) as store:
        with pytest.raises(UnavailableError):
            await store.put_bytes(b"x")
