"""The CheckpointStore contract: the fake, a directory, S3 (moto's server on a loopback port)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contree.adapters.blobs import spool
from contree.adapters.blobs.checkpoint_bucket import open_checkpoint_bucket
from contree.adapters.blobs.checkpoint_directory import DirectoryCheckpointStore
from contree.adapters.blobs.s3_objects import S3Place
from contree.app.proof.checkpoint_store import CheckpointExistsError, CheckpointStore
from contree.domain.errors import NotFoundError, StorageFullError, UnavailableError
from tests.fakes.checkpoint_store import FakeCheckpointStore
from tests.support.s3 import client_of, place_at

BUCKET = "witness"


@pytest.fixture
def place(s3_endpoint: str, request: pytest.FixtureRequest) -> S3Place:
    place = place_at(s3_endpoint, bucket=BUCKET, prefix=f"{request.node.name}/")
    client = client_of(place)
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key=f"{place.prefix}notes.txt", Body=b"not ours")
    return place


@pytest.fixture(params=["fake", "directory", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CheckpointStore]:
    if request.param == "fake":
        yield FakeCheckpointStore()
    elif request.param == "directory":
        yield DirectoryCheckpointStore(tmp_path / "below" / "checkpoints")
    else:
        async with open_checkpoint_bucket(request.getfixturevalue("place")) as bucket:
            yield bucket


async def test_an_empty_store_has_no_sizes(store: CheckpointStore) -> None:
    assert list(await store.sizes()) == []
    with pytest.raises(NotFoundError):
        await store.read(3)


async def test_notes_are_read_back_in_the_order_of_their_sizes(store: CheckpointStore) -> None:
    notes = {size: b"note %d\n" % size for size in (7, 10**12, 100, 9)}
    for size, note in notes.items():
        await store.put(size, note)
    assert list(await store.sizes()) == [7, 9, 100, 10**12]
    assert list(await store.sizes(after=9)) == [100, 10**12]
    assert list(await store.sizes(after=10**12)) == []
    for size, note in notes.items():
        assert await store.read(size) == note


async def test_what_is_there_is_never_written_again(store: CheckpointStore) -> None:
    await store.put(5, b"first\n")
    await store.put(5, b"first\n")
    with pytest.raises(CheckpointExistsError):
        await store.put(5, b"second\n")
    assert await store.read(5) == b"first\n"


async def test_of_several_at_once_one_wins(store: CheckpointStore) -> None:
    notes = [b"note of %d\n" % number for number in range(8)]
    done = await asyncio.gather(*(store.put(1, n) for n in notes), return_exceptions=True)
    assert [type(result) for result in done if result] == [CheckpointExistsError] * 7
    assert await store.read(1) == notes[done.index(None)]


async def test_other_files_of_the_directory_are_passed_over(tmp_path: Path) -> None:
    store = DirectoryCheckpointStore(tmp_path)
    await store.put(1, b"note\n")
    (tmp_path / "README").write_text("hello")
    (tmp_path / "1.checkpoint").write_text("not padded")
    assert list(await store.sizes()) == [1]


async def test_a_full_disk_is_said_and_nothing_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryCheckpointStore(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(spool.os, "fsync", full)
    with pytest.raises(StorageFullError, match="no room"):
        await store.put(1, b"note\n")
    monkeypatch.undo()
    assert list(await store.sizes()) == []


async def test_a_place_that_cannot_be_a_directory_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = DirectoryCheckpointStore(tmp_path / "file")
    with pytest.raises(UnavailableError):
        await store.put(1, b"note\n")
    with pytest.raises(UnavailableError):
        await store.sizes()


async def test_a_file_is_for_good_and_of_its_owner_only(tmp_path: Path) -> None:
    await DirectoryCheckpointStore(tmp_path).put(42, b"note\n")
    (path,) = tmp_path.glob("*.checkpoint")
    assert path.name == "00000000000000000042.checkpoint"
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("wrong", ["bucket", "endpoint"])
async def test_a_bucket_that_is_not_there_is_unavailable(place: S3Place, wrong: str) -> None:
    elsewhere = S3Place(
        bucket="absent" if wrong == "bucket" else BUCKET,
        endpoint_url="http://127.0.0.1:9" if wrong == "endpoint" else place.endpoint_url,
        access_key_id="key",
        secret_access_key="secret",
    )
    async with open_checkpoint_bucket(elsewhere, attempts=1) as store:
        with pytest.raises(UnavailableError):
            await store.put(1, b"note\n")
        with pytest.raises(UnavailableError):
            await store.sizes()
