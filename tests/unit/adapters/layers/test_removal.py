"""Built on the real store with merged layers: what is destroyed is in nothing that was derived."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contree.adapters.layers.mounts.spans import FAN_IN
from contree.adapters.layers.removal import LayerRemovals
from contree.adapters.layers.store import LayerDirectory
from tests.support import layer_tars as tars
from tests.support.layer_tars import file, root
from tests.support.squashfs import files as files_of


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LayerDirectory]:
    real = LayerDirectory(tmp_path / "layers")
    yield real
    real.close()


async def grown(store: LayerDirectory, below: Sequence[str], *names: str) -> list[str]:
    """Add a delta for each name, which is that of its file; each merged as it is due."""
    layers = list(below)
    for name in names:
        stream = tars.stream_of(tars.guest_bytes([root(), file(name, name.encode())]))
        delta = await store.add_delta(stream, below=layers, bytes_max=1 << 30)
        assert delta is not None
        layers.append(delta.diff_id)
        store.wait_for_merges()
    return layers


def shown(directory: Path) -> str:
    """What a merged span shows."""
    (image,) = directory.glob("*.squashfs")
    command = ["unsquashfs", "-l", "-d", "", str(image)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def spans(tmp_path: Path) -> set[Path]:
    return set((tmp_path / "layers" / ".merged").iterdir())


async def destroyed(tmp_path: Path, diff_ids: Sequence[str]) -> int:
    removals = LayerRemovals(tmp_path / "layers", tmp_path / "search")
    later = datetime.now(UTC) + timedelta(hours=1)
    for diff_id in diff_ids:
        assert await removals.set_aside(diff_id, added_before=later)
    return (await removals.destroy(diff_ids)).layer_count


async def test_merged_spans_go_with_their_layers_and_those_of_a_branch_beside_stay(
    store: LayerDirectory, tmp_path: Path
) -> None:
    common = await grown(store, [], *(f"common-{n}" for n in range(FAN_IN + 1)))
    doomed = await grown(store, common, *(f"secret-{n}" for n in range(2 * FAN_IN)))
    kept = await grown(store, common, *(f"open-{n}" for n in range(2 * FAN_IN)))
    plan = files_of(await store.mount_plan(kept))
    secret = {span for span in spans(tmp_path) if "secret" in shown(span)}
    rest = spans(tmp_path) - secret
    assert secret
    assert any("open" in shown(span) for span in rest)
    own = doomed[len(common) :]
    assert await destroyed(tmp_path, own) == len(own)
    assert spans(tmp_path) == rest
    assert files_of(await store.mount_plan(kept)) == plan


async def test_a_span_that_does_not_say_what_it_is_made_of_goes_too(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layers = await grown(store, [], *(f"secret-{n}" for n in range(FAN_IN + 1)))
    (span,) = spans(tmp_path)
    (span / "covers").unlink()
    await destroyed(tmp_path, layers)
    assert spans(tmp_path) == set()
