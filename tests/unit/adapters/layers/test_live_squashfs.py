"""A squashfs that was made while its delta came in is the one that the index would give."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from contree.adapters.layers import live_squashfs, store
from contree.adapters.layers.store import LayerDirectory
from contree.domain.errors import LayerRefused
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, hard_link, opaque, root, symlink, whiteout
from tests.unit.adapters.layers.strategies import guest_streams

BASE = [root(mode=0o755, mtime=9), directory("d", mtime=9), file("d/one", b"1", mtime=9)]
LARGE = os.urandom(3 * live_squashfs.HELD_BYTES)


@pytest.fixture(params=["held", "streamed"])
def held_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether sqfstar is started at the end or with the first entry."""
    if request.param == "streamed":
        monkeypatch.setattr(live_squashfs, "HELD_BYTES", 0)
    return str(request.param)


@pytest.fixture
def rebuilt(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was made from an index."""
    made: list[Path] = []
    build = store.build_squashfs

    def noted(**given: object) -> None:
        made.append(given["target"])
        build(**given)

    monkeypatch.setattr(store, "build_squashfs", noted)
    return made


async def grown(layers: LayerDirectory, directory: Path, *members: tars.Member) -> list[str]:
    """Store a base and a delta on it; return both."""
    tar = tars.tar_bytes(BASE)
    blob = tars.blob(directory, tar)
    base = await layers.add_imported(blob, media_type=tars.TAR, diff_id=tars.diff_id(tar))
    stream = tars.stream_of(tars.guest_bytes(members))
    delta = await layers.add_delta(stream, below=[base.diff_id], bytes_max=1 << 30)
    return [base.diff_id, *([] if delta is None else [delta.diff_id])]


def contents(image: Path, work: Path) -> dict[str, object]:
    """Everything a squashfs has, by path: what `unsquashfs -lln` tells, and the files' bytes."""
    command = ["unsquashfs", "-lln", "-d", "", str(image)]
    listed = subprocess.run(command, check=True, capture_output=True).stdout
    target = Path(tempfile.mkdtemp(dir=work)) / "out"
    command = ["unsquashfs", "-q", "-n", "-no-progress", "-d", str(target), str(image)]
    done = subprocess.run(command, check=False, capture_output=True)
    # Our own filesystem takes no user attributes of links and devices; all else is unpacked.
    assert not [line for line in done.stderr.splitlines() if b"failed to write xattr" not in line]
    found: dict[str, object] = {"": sorted(listed.splitlines())}
    for path in sorted(target.rglob("*")):
        told = path.lstat()
        attributes = {n: os.getxattr(path, n, follow_symlinks=False) for n in _names(path)}
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(target))] = (told.st_nlink, attributes, data)
    return found


def _names(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


async def compared(layers: LayerDirectory, work: Path, ids: list[str]) -> None:
    """Read the delta's squashfs, remove it, have it made from the index, compare."""
    image = (await layers.mount_plan(ids)).squashfs[-1]
    live = contents(image, work)
    image.unlink()
    assert (await layers.mount_plan(ids)).squashfs[-1] == image
    assert contents(image, work) == live


@pytest.fixture
async def layers(tmp_path: Path) -> AsyncIterator[LayerDirectory]:
    real = LayerDirectory(tmp_path / "layers")
    yield real
    real.close()


async def test_all_kinds_of_entries_come_out_as_from_the_index(
    layers: LayerDirectory, tmp_path: Path, held_bytes: str, rebuilt: list[Path]
) -> None:
    ids = await grown(
        layers,
        tmp_path,
        root(mode=0o711, uid=5, gid=70_000, mtime=77),
        file("a", LARGE, mode=0o4755, xattrs={"user.a": "1"}),
        opaque("d"),
        file("d/new", b"x" * 513),
        hard_link("d/second", "a"),
        directory("e", mode=0o1777),
        symlink("e/s", "t" * 200),
        tars.sparse("f", [(4096, b"data"), (600_000, b"more"), (3 << 20, b"end")], 5 << 20),
    )
    assert rebuilt == []
    await compared(layers, tmp_path, ids)


async def test_whiteouts_and_an_untouched_root_come_out_as_from_the_index(
    layers: LayerDirectory, tmp_path: Path, held_bytes: str, rebuilt: list[Path]
) -> None:
    ids = await grown(
        layers,
        tmp_path,
        root(mode=0o755, mtime=9),
        directory("d", mtime=10),
        whiteout("d/gone-already"),
        whiteout("d/one"),
        file("z", LARGE),
    )
    assert rebuilt == []
    await compared(layers, tmp_path, ids)


async def test_what_is_left_out_at_the_end_is_not_in_the_squashfs(
    layers: LayerDirectory, tmp_path: Path, held_bytes: str, rebuilt: list[Path]
) -> None:
    ids = await grown(
        layers,
        tmp_path,
        root(mode=0o755, mtime=9),
        directory("d", mtime=9),
        file("d/one", b"1", mtime=9),
        file("z", LARGE),
    )
    assert len(rebuilt) == 1
    image = (await layers.mount_plan(ids)).squashfs[-1]
    assert "d" not in contents(image, tmp_path)
    await compared(layers, tmp_path, ids)


async def test_a_delta_that_changes_nothing_or_is_refused_leaves_nothing(
    layers: LayerDirectory, tmp_path: Path, held_bytes: str
) -> None:
    assert len(await grown(layers, tmp_path, root(mode=0o755, mtime=9))) == 1
    with pytest.raises(LayerRefused):
        await grown(layers, tmp_path, root(), file("a", LARGE), hard_link("b", "nowhere"))
    assert list((tmp_path / "layers" / ".staging").iterdir()) == []
    assert not [path for path in Path("/proc").glob("[0-9]*/comm") if _is_ours(path, tmp_path)]


def _is_ours(comm: Path, tmp_path: Path) -> bool:
    try:
        return str(tmp_path).encode() in (comm.parent / "cmdline").read_bytes()
    except OSError:
        return False


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(upper=guest_streams())
async def test_random_deltas_come_out_as_from_the_index(
    upper: list[tars.Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_squashfs, "HELD_BYTES", 0)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        real = LayerDirectory(work / "layers")
        try:
            ids = await grown(real, work, *upper)
            if len(ids) > 1:
                await compared(real, work, ids)
        finally:
            real.close()
