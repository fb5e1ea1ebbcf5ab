"""Built as a comparison: random layers in the real store and in the naive fake show the same."""

from __future__ import annotations

import asyncio
import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.store import LayerDirectory
from contree.app.images.layer_store import EntryType, FileEntry, ImageFiles, LayerStore
from tests.fakes.layers import FakeLayers
from tests.support import layer_tars as tars
from tests.unit.adapters.layers.strategies import guest_streams, oci_layers

RANDOM = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


async def everything(files: ImageFiles, layers: list[str]) -> dict[str, tuple[FileEntry, bytes]]:
    """Every file of the image with its content, by path; walked with `list` and `open`."""
    found = {"/": (await files.stat(layers, "/"), b"")}
    pending = ["/"]
    while pending:
        for entry in await files.list(layers, pending.pop()):
            data = b""
            if entry.type is EntryType.REGULAR:
                data = await tars.collected((await files.open(layers, entry.path)).chunks)
            if entry.type is EntryType.DIRECTORY:
                pending.append(entry.path)
            found[entry.path] = (entry, data)
    return found


async def built(
    store: LayerStore, directory: Path, lower: list[list[tars.Member]], upper: list[tars.Member]
) -> tuple[list[str], str | None]:
    ids: list[str] = []
    for members in lower:
        tar = tars.tar_bytes(members)
        blob = tars.blob(directory, tar)
        layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
        ids.append(layer.diff_id)
    stream = tars.stream_of(tars.guest_bytes(upper))
    delta = await store.add_delta(stream, below=ids, bytes_max=1 << 30)
    return ids, None if delta is None else delta.diff_id


async def _nothing(store: LayerStore, directory: Path) -> str:
    tar = tars.tar_bytes([])
    blob = tars.blob(directory, tar)
    return (await store.add_imported(blob, diff_id=tars.diff_id(tar))).diff_id


async def compared(lower: list[list[tars.Member]], upper: list[tars.Member]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        fake, real = FakeLayers(), LayerDirectory(Path(directory) / "layers")
        files = LayerImageFiles(real)
        try:
            wanted_ids, wanted_delta = await built(fake, Path(directory), lower, upper)
            ids, delta = await built(real, Path(directory), lower, upper)
            if wanted_delta is None and delta is not None:
                # A directory replaced by an equal one: seen as a change, since it was removed.
                assert any(tars.OPAQUE_XATTR in member.xattrs for member in upper)
                wanted_delta = await _nothing(fake, Path(directory))
            assert (delta is None) == (wanted_delta is None)
            assert await everything(files, ids) == await everything(fake, wanted_ids)
            if delta is not None and wanted_delta is not None:
                shown = await everything(files, [*ids, delta])
                assert shown == await everything(fake, [*wanted_ids, wanted_delta])
                await _reimported(real, files, Path(directory), ids, delta)
                await _archived(files, [*ids, delta])
        finally:
            files.close()
            real.close()


async def _reimported(
    real: LayerDirectory, files: LayerImageFiles, directory: Path, ids: list[str], delta: str
) -> None:
    """Another box that gets the canonical layer as an import shows the same image."""
    other = LayerDirectory(directory / "other")
    other_files = LayerImageFiles(other)
    try:
        for diff_id in [*ids, delta]:
            await other.add_imported(real.tar_path(diff_id), diff_id=diff_id)
        layers = [*ids, delta]
        assert await everything(other_files, layers) == await everything(files, layers)
    finally:
        other_files.close()
        other.close()


async def _archived(files: LayerImageFiles, layers: list[str]) -> None:
    """Python's tarfile finds in the archive what `list` shows."""
    data = await tars.collected(await files.archive(layers, "/"))
    shown = await everything(files, layers)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {"/" + member.name[2:]: member for member in archive}
        assert found.keys() == shown.keys()
        for path, (entry, wanted) in shown.items():
            member = found[path]
            if entry.type is EntryType.REGULAR:
                body = archive.extractfile(member)
                assert body is not None
                assert body.read() == wanted
            if not member.islnk():
                told = (member.mode, member.uid, member.gid, int(member.mtime))
                assert told == (entry.mode, entry.uid, entry.gid, entry.mtime_s)


@RANDOM
@given(lower=st.lists(oci_layers(), min_size=1, max_size=3), upper=guest_streams())
def test_random_layers_show_what_the_naive_merge_shows(
    lower: list[list[tars.Member]], upper: list[tars.Member]
) -> None:
    note(f"lower={lower!a}")  # names that are not UTF-8 cannot be printed as they are
    note(f"upper={upper!a}")
    asyncio.run(compared(lower, upper))
