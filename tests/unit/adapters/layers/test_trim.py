"""Built on the real store: which copies of the fleet's layers go, and which never do."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contree.adapters.layers.mounts.unused import KEPT_S
from contree.adapters.layers.shared import SPACE, SharedLayers
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.layers.trim import TrimLayers
from contree.app.outages import Outages
from tests.fakes.blob_store import FakeBlobStore
from tests.support import layer_tars as tars
from tests.support.layer_tars import file, root

LAYER_BYTES = 1 << 20


@pytest.fixture
def fleet() -> FakeBlobStore:
    return FakeBlobStore()


@pytest.fixture
async def store(tmp_path: Path, fleet: FakeBlobStore) -> AsyncIterator[LayerDirectory]:
    opened = LayerDirectory(tmp_path / "layers", SharedLayers(fleet, Outages()))
    yield opened
    opened.close()


async def imported(store: LayerDirectory, tmp_path: Path, name: str, *, unused_s: float) -> Path:
    """Import a layer of LAYER_BYTES, last used so long ago; return its directory."""
    tar = tars.tar_bytes([root(), file(name, os.urandom(LAYER_BYTES))])
    await store.add_imported(tars.blob(tmp_path, tar), diff_id=tars.diff_id(tar))
    directory = tmp_path / "layers" / tars.diff_id(tar).removeprefix("sha256:")
    used_at = time.time() - unused_s
    os.utime(directory, (used_at, used_at))
    return directory


async def test_what_was_used_longest_ago_goes_until_the_bound_is_kept(
    store: LayerDirectory, fleet: FakeBlobStore, tmp_path: Path
) -> None:
    ages = {"oldest": 5 * KEPT_S, "old": 4 * KEPT_S, "young": 3 * KEPT_S, "used": 0}
    made = {n: await imported(store, tmp_path, n, unused_s=age) for n, age in ages.items()}

    def trim(layers: float) -> TrimLayers:
        bytes_max = int(layers * LAYER_BYTES)
        return TrimLayers(tmp_path / "layers", SharedLayers(fleet, Outages()), bytes_max=bytes_max)

    assert await trim(6).look() == 0
    assert await trim(2.5).look() >= 2 * LAYER_BYTES
    assert [name for name, path in made.items() if path.exists()] == ["young", "used"]
    assert await trim(0).look() >= LAYER_BYTES
    assert [name for name, path in made.items() if path.exists()] == ["used"]
    gone = "sha256:" + made["old"].name
    assert len((await store.mount_plan([gone])).squashfs) == 1
    assert made["old"].exists(), "it is fetched again"


async def test_what_the_fleet_does_not_have_stays(
    store: LayerDirectory, fleet: FakeBlobStore, tmp_path: Path
) -> None:
    only = await imported(store, tmp_path, "only", unused_s=9 * KEPT_S)
    other = await imported(store, tmp_path, "other", unused_s=2 * KEPT_S)
    del fleet.stored[SPACE, only.name]
    trim = TrimLayers(tmp_path / "layers", SharedLayers(fleet, Outages()), bytes_max=0)
    assert await trim.look() >= LAYER_BYTES
    assert (only.exists(), other.exists()) == (True, False)


async def test_each_use_keeps_a_copy(
    store: LayerDirectory, fleet: FakeBlobStore, tmp_path: Path
) -> None:
    made = await imported(store, tmp_path, "file", unused_s=9 * KEPT_S)
    await store.mount_plan(["sha256:" + made.name])
    trim = TrimLayers(tmp_path / "layers", SharedLayers(fleet, Outages()), bytes_max=0)
    assert await trim.look() == 0
    assert made.exists()
