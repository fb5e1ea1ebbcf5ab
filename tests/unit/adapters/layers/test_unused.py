"""Built on the real store with small layers: what is covered and unused goes, nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contree.adapters.layers.mounts import unused
from contree.adapters.layers.mounts.spans import FAN_IN
from contree.adapters.layers.mounts.unused import KEPT_S, mark_used, remove_unused
from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.store import LayerDirectory
from tests.support import layer_tars as tars
from tests.support.layer_tars import file, root
from tests.support.squashfs import files as files_of

DEPTH = FAN_IN * FAN_IN


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LayerDirectory]:
    real = LayerDirectory(tmp_path / "layers")
    yield real
    real.close()


async def grown(store: LayerDirectory, layers: list[str], count: int) -> list[str]:
    """Add `count` deltas, each once it was built upon merged as it is due."""
    for _ in range(count):
        members = [root(), file(f"f{len(layers)}", b"%d" % len(layers))]
        stream = tars.stream_of(tars.guest_bytes(members))
        delta = await store.add_delta(stream, below=layers, bytes_max=1 << 30)
        assert delta is not None
        layers = [*layers, delta.diff_id]
        store.wait_for_merges()
    return layers


def derived(store_root: Path) -> set[Path]:
    """Every squashfs of a layer and every merged span."""
    return {*store_root.glob("[0-9a-f]*/mount-*.squashfs"), *store_root.glob(".merged/*")}


def age(store_root: Path, *, by_s: float = KEPT_S + 1) -> None:
    for path in derived(store_root):
        os.utime(path, (time.time() - by_s, time.time() - by_s))


def collect(store: LayerDirectory) -> None:
    store.sweep()
    store.wait_for_merges()


async def used(store: LayerDirectory, layers: list[str]) -> set[Path]:
    """What the plan of an image is made of."""
    plan = files_of(await store.mount_plan(layers))
    return {path.parent if ".merged" in path.parts else path for path in plan}


async def names(store: LayerDirectory, layers: list[str]) -> set[str]:
    files = LayerImageFiles(store)
    try:
        return {entry.name for entry in await files.list(layers, "/")}
    finally:
        files.close()


async def test_what_a_larger_span_covers_goes_once_nobody_uses_it(
    store: LayerDirectory, tmp_path: Path
) -> None:
    home = tmp_path / "layers"
    layers = await grown(store, [], DEPTH + 1)
    collect(store)
    assert len(derived(home)) > DEPTH, "all of it has been used just now"
    wanted = await used(store, layers)
    age(home)
    assert await used(store, layers) == wanted
    collect(store)
    assert derived(home) == wanted
    assert await names(store, layers) == {f"f{n}" for n in range(DEPTH + 1)}


async def test_older_images_keep_what_they_use_and_get_back_what_is_gone(
    store: LayerDirectory, tmp_path: Path
) -> None:
    home = tmp_path / "layers"
    layers = await grown(store, [], DEPTH + 1)
    older, oldest = layers[: FAN_IN + 2], layers[:2]
    age(home)
    wanted = await used(store, layers) | await used(store, older)
    collect(store)
    assert derived(home) == wanted
    assert await names(store, oldest) == {"f0", "f1"}
    assert all(path.exists() for path in await used(store, oldest))


async def test_a_long_chain_holds_each_delta_once_beside_its_tar(
    store: LayerDirectory, tmp_path: Path
) -> None:
    home = tmp_path / "layers"
    layers: list[str] = []
    for _ in range(6):
        layers = await grown(store, layers, FAN_IN + 1)
        age(home)
        wanted = await used(store, layers)
        collect(store)
        assert derived(home) <= wanted | await used(store, layers[:-1])
    assert len(list((home / ".merged").iterdir())) <= len(wanted) < len(layers)


async def test_what_nothing_covers_stays_however_old(store: LayerDirectory, tmp_path: Path) -> None:
    layers = await grown(store, [], FAN_IN - 1)
    before = derived(tmp_path / "layers")
    age(tmp_path / "layers", by_s=1e8)
    collect(store)
    assert derived(tmp_path / "layers") == before
    assert len(before) == len(layers)


def test_a_mark_keeps_and_says_when_there_is_nothing_to_keep(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert not mark_used(path)
    path.write_bytes(b"")
    os.utime(path, (1, 1))
    assert mark_used(path)
    assert not remove_unused(path, tmp_path)
    os.utime(path, (1, 1))
    assert remove_unused(path, tmp_path)
    assert not path.exists()
    assert not remove_unused(path, tmp_path)


@pytest.mark.parametrize("is_directory", [False, True])
def test_what_is_marked_while_it_is_removed_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_directory: bool
) -> None:
    path = tmp_path / "x"
    if is_directory:
        (path / "in").mkdir(parents=True)
    else:
        path.write_bytes(b"x")
    os.utime(path, (1, 1))
    number = path.stat().st_ino
    staging = unused.staging_directory

    def marked_just_then(where: Path) -> object:
        assert mark_used(path)
        return staging(where)

    monkeypatch.setattr(unused, "staging_directory", marked_just_then)
    assert not remove_unused(path, tmp_path)
    assert path.stat().st_ino == number


KILLED = """
import os, signal, sys
from pathlib import Path
from contree.adapters.layers.mounts import unused

answers = iter([True])
def unused_then_die(path):
    return next(answers, None) or os.kill(os.getpid(), signal.SIGKILL)
unused.is_unused = unused_then_die
unused.remove_unused(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def status_of(command: list[str]) -> int:
    return subprocess.run(command, check=False, cwd=Path(__file__).parents[4]).returncode


async def test_killed_while_removing_it_is_as_if_removed(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layers = await grown(store, [], 2)
    plan = await store.mount_plan(layers)
    lowest = files_of(plan)[0]
    command = [sys.executable, "-c", KILLED, str(lowest), str(tmp_path / "layers")]
    assert status_of(command) == -signal.SIGKILL
    assert not lowest.exists()
    assert store.sweep() == 1
    assert await store.mount_plan(layers) == plan
    assert lowest.exists()
