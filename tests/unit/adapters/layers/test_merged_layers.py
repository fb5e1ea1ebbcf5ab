"""Built on the real store with layers of a file each: merged in time, lost, killed, too deep."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contree.adapters.layers.mounts.plans import MOUNTS_MAX, MOUNTS_WANTED
from contree.adapters.layers.mounts.spans import FAN_IN
from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.squashfs.writer import IN_PLACE_MIN_BYTES
from contree.adapters.layers.store import LayerDirectory
from contree.app.images.layer_store import MountPlan
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, root, whiteout
from tests.support.squashfs import files as files_of
from tests.support.squashfs import joined

NO_LIMIT = 1 << 30


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LayerDirectory]:
    real = LayerDirectory(tmp_path / "layers")
    yield real
    real.close()


async def imported(store: LayerDirectory, work: Path, *members: tars.Member) -> str:
    tar = tars.tar_bytes(members)
    blob = tars.blob(work, tar)
    layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
    blob.unlink()
    return layer.diff_id


async def grown(store: LayerDirectory, below: list[str], *members: tars.Member) -> list[str]:
    stream = tars.stream_of(tars.guest_bytes([root(), *members]))
    layer = await store.add_delta(stream, below=below, bytes_max=NO_LIMIT)
    assert layer is not None
    return [*below, layer.diff_id]


async def chain(store: LayerDirectory, work: Path, depth: int) -> list[str]:
    """A base and `depth` deltas; the last was built upon, so that its merges are due."""
    layers = [await imported(store, work, root(), file("base", bytes(500_000)))]
    for number in range(depth):
        layers = await grown(store, layers, file(f"f{number}", b"%d" % number))
    await grown(store, layers, file("next"))
    store.wait_for_merges()
    return layers


def merged(plan: MountPlan) -> list[Path]:
    return [path for path in files_of(plan) if ".merged" in path.parts]


def listed(image: Path) -> list[str]:
    command = ["unsquashfs", "-l", "-d", "", str(image)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def content_in(image: Path, name: str) -> bytes:
    command = ["unsquashfs", "-cat", str(image), name]
    return subprocess.run(command, check=True, capture_output=True).stdout


def killed_while_merging(root: Path, step: str, moment: str, layers: list[str]) -> int:
    command = [sys.executable, "-c", KILLED, str(root), step, moment, *layers]
    return subprocess.run(command, check=False, cwd=Path(__file__).parents[4]).returncode


async def names(store: LayerDirectory, layers: list[str]) -> set[str]:
    files = LayerImageFiles(store)
    try:
        return {entry.name for entry in await files.list(layers, "/")}
    finally:
        files.close()


async def test_deltas_are_merged_once_they_are_built_upon(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layers = await chain(store, tmp_path, FAN_IN - 1)
    full = await grown(store, layers, file("one more"))
    store.wait_for_merges()
    assert merged(await store.mount_plan(full)) == [], "it may stay a leaf"
    for branch in range(3):
        await grown(store, full, file(f"branch-{branch}"))
    store.wait_for_merges()
    plan = await store.mount_plan(full)
    assert len(plan.squashfs) == 2
    assert merged(plan) == [files_of(plan)[1]]
    assert len(list((tmp_path / "layers" / ".merged").iterdir())) == 1


async def test_branches_share_what_is_merged_below_them(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layers = await chain(store, tmp_path, 2 * FAN_IN)
    one, two = [await grown(store, layers, file(name)) for name in ("one", "two")]
    plans = [await store.mount_plan(branch) for branch in (one, two)]
    assert merged(plans[0]) == merged(plans[1]) != []
    assert (await names(store, one)) ^ (await names(store, two)) == {"one", "two"}


async def test_lost_merged_files_are_done_without_and_made_again(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layers = await chain(store, tmp_path, 2 * FAN_IN)
    before = await store.mount_plan(layers)
    shown = await names(store, layers)
    contents = [path.read_bytes() for path in files_of(before)]
    first, second = merged(before)
    first.unlink()  # a part of it
    shutil.rmtree(second.parent)
    assert merged(await store.mount_plan(layers)) == []
    assert await names(store, layers) == shown
    await grown(store, layers, file("again"))
    store.wait_for_merges()
    assert await store.mount_plan(layers) == before
    assert [path.read_bytes() for path in files_of(before)] == contents


async def test_large_tars_are_not_copied_when_they_are_merged(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layers: list[str] = []
    contents = [os.urandom(IN_PLACE_MIN_BYTES) for _ in range(FAN_IN)]
    for number, content in enumerate(contents):
        layers = await grown(store, layers, file(f"f{number}", content))
    await grown(store, layers, file("next"))
    store.wait_for_merges()
    (image,) = (await store.mount_plan(layers)).squashfs
    head, *tars_in_place, rest = image
    assert [part.path.name for part in tars_in_place] == FAN_IN * ["layer.tar"]
    assert head.size_bytes + rest.size_bytes <= 16 * 1024
    whole = joined(image, tmp_path / "image")
    for number, content in enumerate(contents):
        assert content_in(whole, f"f{number}") == content


async def test_whatever_is_merged_every_earlier_image_shows_its_own(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layers = await chain(store, tmp_path, 20)
    for depth in range(len(layers)):
        wanted = {"base", *(f"f{number}" for number in range(depth))}
        assert await names(store, layers[: depth + 1]) == wanted


async def test_what_comes_and_goes_leaves_nothing_in_what_is_merged(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layers = [await imported(store, tmp_path, root(), file("base", bytes(500_000)))]
    for number in range(FAN_IN // 2):
        layers = await grown(store, layers, directory("tmp"), file(f"tmp/{number}", b"x" * 99))
        layers = await grown(store, layers, directory("tmp"), whiteout(f"tmp/{number}"))
    await grown(store, layers, file("next"))
    store.wait_for_merges()
    (image,) = merged(await store.mount_plan(layers))
    assert [line for line in listed(image) if "/tmp" in line] == ["/tmp"]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from contree.adapters.layers.mounts import merged_layers
from contree.adapters.layers.store import LayerDirectory
from tests.support import layer_tars as tars

# This process is the victim: it dies before or after a step, and nothing is checked in it.
root, step, moment, *layers = sys.argv[1:]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
if step == "pulse":
    pulses = iter(range(int(moment)))
    merged_layers.MergedLayers._pulse = lambda self: next(pulses, None) is None and die()
else:
    real = getattr(merged_layers, step)
    def dying(*given, **named):
        if moment == "before":
            die()
        real(*given, **named)
        die()
    setattr(merged_layers, step, dying)

async def main():
    store = LayerDirectory(Path(root))
    stream = tars.stream_of(tars.guest_bytes([tars.root(), tars.file("dies")]))
    await store.add_delta(stream, below=layers, bytes_max=1 << 30)
    store.wait_for_merges()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("merge_indexes", "before"),
        ("pulse", "0"),  # while the index is merged
        ("merge_indexes", "after"),
        ("pulse", "3"),  # while the squashfs is made
        ("build_squashfs", "after"),
        ("complete", "after"),
        ("write_covers", "after"),
        ("publish", "after"),
    ],
)
async def test_a_merge_killed_at_any_point_harms_nothing(
    store: LayerDirectory, tmp_path: Path, step: str, moment: str
) -> None:
    layers = await chain(store, tmp_path, FAN_IN)
    shown = await names(store, layers)
    before = await store.mount_plan(layers)
    contents = [path.read_bytes() for path in files_of(before)]
    (mount,) = merged(before)
    shutil.rmtree(mount.parent)
    assert killed_while_merging(tmp_path / "layers", step, moment, layers) == -signal.SIGKILL
    assert merged(await store.mount_plan(layers)) == ([mount] if step == "publish" else [])
    assert await names(store, layers) == shown
    assert store.sweep() == 1
    await grown(store, layers, file("after"))
    store.wait_for_merges()
    assert await store.mount_plan(layers) == before
    assert [path.read_bytes() for path in files_of(before)] == contents


async def test_closing_gives_up_merges_and_another_store_makes_them(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layers = await chain(store, tmp_path, FAN_IN - 1)
    layers = await grown(store, layers, *[file(f"many{n:04}") for n in range(2000)])
    layers = await grown(store, layers, file("last"))
    store.close()
    staging = tmp_path / "layers" / ".staging"
    assert list(staging.iterdir()) == []
    other = LayerDirectory(tmp_path / "layers")
    try:
        assert "last" in await names(other, layers)
        assert len((await other.mount_plan(layers)).squashfs) <= len(layers)
    finally:
        other.close()


async def test_a_thousand_layers_are_a_short_plan_and_stay_what_they_are(
    store: LayerDirectory, tmp_path: Path
) -> None:
    # Nothing has been merged before: the plan must, and the rest follows.
    layers = [
        await imported(store, tmp_path, directory("d"), file(f"d/{number % 700}", b"%d" % number))
        for number in range(1000)
    ]
    first = await store.mount_plan(layers)
    assert len(first.squashfs) <= MOUNTS_MAX
    store.wait_for_merges()
    plan = await store.mount_plan(layers)
    assert len(plan.squashfs) <= MOUNTS_WANTED
    files = LayerImageFiles(store)
    try:
        assert len(await files.list(layers, "/d")) == 700
        for number in (0, 299, 300, 699):
            content = await tars.collected((await files.open(layers, f"/d/{number}")).chunks)
            assert content == b"%d" % (number + 700 if number < 300 else number)
    finally:
        files.close()
    stored = [path for path in (tmp_path / "layers").rglob("*") if path.is_file()]
    assert len([path for path in stored if path.name == "layer.tar"]) == 1000, "history is kept"
