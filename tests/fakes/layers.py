"""Layers in memory: LayerStore, ImageFiles and both comparers over dictionaries.

Tars are read with Python's `tarfile`.

A second, naive implementation of what a stack of layers shows: whole layers are applied to a dict
of paths one after the other. tests/contracts/test_layer_store.py and test_image_files.py hold it
and the real one to the Protocols; unit tests compare the two on random layers.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path

from contree.app.content.blob_store import READ_CHUNK_BYTES
from contree.app.images.image_comparison import ImageChange
from contree.app.images.layer_comparison import EntryDifference, LayerComparison, LayerEntry
from contree.app.images.layer_store import (
    IMPORTED_BYTES_MAX,
    EntryType,
    FileContent,
    FileEntry,
    FilePart,
    Layer,
    MountPlan,
)
from contree.domain.errors import LayerRefused, NotFoundError, WrongFileTypeError
from tests.fakes.layer_trees import (
    ROOT,
    Change,
    FakeFile,
    Tree,
    applied,
    archived,
    entry_of,
    guest_changes,
    inflated,
    layer_entry,
    oci_changes,
    raw,
    real_changes,
    resolved,
    told,
    tree_changes,
)


class FakeLayers:
    """Implements LayerStore, ImageFiles, LayerComparer and ImageComparer."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[list[Change], int]] = {}

    # -- LayerStore ---------------------------------------------------------------------------

    async def has(self, diff_id: str) -> bool:
        return diff_id in self._layers

    async def add_imported(
        self, blob: Path, *, diff_id: str, bytes_max: int = IMPORTED_BYTES_MAX
    ) -> Layer:
        tar = inflated(blob.read_bytes())
        if len(tar) > bytes_max:
            raise LayerRefused(f"the layer is over {bytes_max} bytes")
        if "sha256:" + hashlib.sha256(tar).hexdigest() != diff_id:
            raise LayerRefused(f"the layer's digest is not {diff_id}")
        return self._keep(diff_id, tar, oci_changes(tar))

    async def add_delta(
        self, tar: AsyncIterator[bytes], *, below: Sequence[str], bytes_max: int
    ) -> Layer | None:
        data = bytearray()
        async for chunk in tar:
            data += chunk
            if len(data) > bytes_max:
                raise LayerRefused(f"the layer is over {bytes_max} bytes")
        before = self._tree(below)
        changes = real_changes(guest_changes(bytes(data)), before)
        after = applied(dict(before), changes)
        if told(before, directory_times=False) == told(after, directory_times=False):
            return None
        words = sorted(told(after, directory_times=True).items())
        digest = hashlib.sha256(repr(words).encode()).hexdigest()
        return self._keep("sha256:" + digest, bytes(data), changes)

    async def mount_plan(self, diff_ids: Sequence[str]) -> MountPlan:
        self._tree(diff_ids)
        parts = [
            FilePart(path=Path("/fake") / diff_id, offset_bytes=0, size_bytes=4096)
            for diff_id in diff_ids
        ]
        return MountPlan(squashfs=tuple((part,) for part in parts))

    def put_files(self, files: Mapping[str, bytes], gone: Sequence[str] = ()) -> str:
        """Store a layer that removes files and puts plain ones; return its diff_id."""
        changes = [Change(path) for path in gone] + [
            Change(path, FakeFile(type=EntryType.REGULAR, data=data, ino=object()))
            for path, data in files.items()
        ]
        digest = (
            "sha256:" + hashlib.sha256(repr((sorted(files.items()), *gone)).encode()).hexdigest()
        )
        self._keep(digest, b"".join(files.values()), changes)
        return digest

    # -- ImageFiles ---------------------------------------------------------------------------

    async def stat(self, layers: Sequence[str], path: str, *, follow: bool = True) -> FileEntry:
        tree = self._tree(layers)
        return entry_of(tree, resolved(tree, path, follow=follow))

    async def list(self, layers: Sequence[str], path: str) -> Sequence[FileEntry]:
        tree = self._tree(layers)
        found = resolved(tree, path)
        if tree[found].type is not EntryType.DIRECTORY:
            raise WrongFileTypeError(path, "is not a directory")
        children = [name for name in tree if name != "/" and posixpath.dirname(name) == found]
        return [entry_of(tree, name) for name in sorted(children, key=raw)]

    async def open(self, layers: Sequence[str], path: str) -> FileContent:
        tree = self._tree(layers)
        found = resolved(tree, path)
        if tree[found].type is not EntryType.REGULAR:
            raise WrongFileTypeError(path, "is not a regular file")
        return FileContent(
            entry=entry_of(tree, found), source=None, offset=0, chunks=_chunks(tree[found].data)
        )

    async def archive(self, layers: Sequence[str], path: str) -> AsyncIterator[bytes]:
        tree = self._tree(layers)
        top = resolved(tree, path, follow=False)
        archivable = (EntryType.DIRECTORY, EntryType.REGULAR, EntryType.SYMLINK)
        if tree[top].type not in archivable:
            raise WrongFileTypeError(path, "is no directory, regular file or symbolic link")
        return _chunks(archived(tree, top))

    # -- LayerComparer ------------------------------------------------------------------------

    async def compare(
        self, original: str | None, replay: str | None, *, limit: int
    ) -> LayerComparison:
        sides = [self._said(diff_id) for diff_id in (original, replay)]
        paths = sorted(
            sides[0].keys() | sides[1].keys(), key=lambda path: posixpath.split(raw(path))
        )
        found = [
            EntryDifference(path=path, original=sides[0].get(path), replay=sides[1].get(path))
            for path in paths
        ]
        differing = [one for one in found if one.original != one.replay]
        return LayerComparison(
            equal_count=len(found) - len(differing),
            differences=differing[:limit],
            truncated=len(differing) > limit,
        )

    def _said(self, diff_id: str | None) -> dict[str, LayerEntry]:
        """What a layer says of each path; the last word counts."""
        if diff_id is None:
            return {}
        if diff_id not in self._layers:
            raise NotFoundError("layer", diff_id)
        return {c.path: layer_entry(c) for c in self._layers[diff_id][0]}

    # -- ImageComparer ------------------------------------------------------------------------

    async def changes(
        self,
        before: Sequence[str],
        after: Sequence[str],
        *,
        paths: Sequence[str] = ("/",),
        times: bool = False,
        beyond: str | None = None,
    ) -> AsyncGenerator[Sequence[ImageChange], None]:
        found = tree_changes(self._tree(before), self._tree(after), times=times)
        for change in found:
            path = change.path
            within = any(path == top or path.startswith(top.rstrip("/") + "/") for top in paths)
            if within and (beyond is None or raw(path) > raw(beyond)):
                yield [change]

    async def names(self, layers: Sequence[str], paths: Sequence[str]) -> bool:
        for diff_id in layers:
            if diff_id not in self._layers:
                raise NotFoundError("layer", diff_id)
            for change in self._layers[diff_id][0]:
                hides = change.file is None or change.opaque
                hides = hides or change.file.type is not EntryType.DIRECTORY
                for path in paths:
                    below = path.rstrip("/") + "/"
                    if change.path == path or change.path.startswith(below):
                        return True
                    if hides and path.startswith(change.path.rstrip("/") + "/"):
                        return True
        return False

    # -- trees --------------------------------------------------------------------------------

    def _keep(self, diff_id: str, tar: bytes, changes: list[Change]) -> Layer:
        self._layers[diff_id] = (changes, len(tar))
        return Layer(diff_id=diff_id, size_bytes=len(tar), entry_count=len(changes))

    def _tree(self, layers: Sequence[str]) -> Tree:
        tree = {"/": ROOT}
        for diff_id in layers:
            if diff_id not in self._layers:
                raise NotFoundError("layer", diff_id)
            tree = applied(tree, self._layers[diff_id][0])
        return tree


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), READ_CHUNK_BYTES):
        yield data[at : at + READ_CHUNK_BYTES]
