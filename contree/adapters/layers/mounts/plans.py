"""What a guest mounts for a stack of layers, and the making of what is not there yet.

Merged spans of layers stand for their layers where they are there (`merged_layers`), so a plan
stays short however deep the image is. A layer's variant depends on all that is below it, so
decisions are remembered by chain id: a new layer on a known image costs one decision. Blocking
throughout; safe in several threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contree.adapters.layers.index.reader import IndexCache, LayerIndex
from contree.adapters.layers.index.stack import Stack
from contree.adapters.layers.mounts.merged_layers import MergedLayers
from contree.adapters.layers.mounts.spans import Span
from contree.adapters.layers.mounts.unused import mark_used
from contree.adapters.layers.squashfs.head import image_parts
from contree.adapters.layers.squashfs.variant import mount_variant
from contree.adapters.layers.squashfs.writer import build_squashfs
from contree.adapters.layers.staging import publish, staging_directory
from contree.app.images.layer_store import FilePart

MOUNTS_WANTED: Final = 32
"""A longer plan is used as it is, and has what would shorten it made in the background."""

MOUNTS_MAX: Final = 128
"""A longer plan is shortened before it is used: guests take at most 200 (docs/guest-protocol.md,
`MAX_LAYERS`), and each mount costs the run some milliseconds."""

_REMEMBERED_MAX: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A squashfs: of the layer `digest` on the spans `below`, or of merged layers (digest None).

    That of a layer is there or to be made. `start` is the number of its lowest layer.
    """

    path: Path
    start: int
    digest: str | None
    below: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    """`covers` says that the root is opaque: nothing below it shows."""

    file_name: str
    covers: bool


class MountPlans:
    """Plans over the layers in `root`, whose directories have their digits for names."""

    def __init__(
        self, root: Path, indexes: IndexCache, merged: MergedLayers, *, tar_name: str
    ) -> None:
        self._root = root
        self._indexes = indexes
        self._merged = merged
        self._tar_name = tar_name
        self._lock = threading.Lock()
        self._decided: OrderedDict[str, _Decision] = OrderedDict()

    def plan(self, layers: Sequence[str]) -> list[Mount]:
        """Return what to mount, bottom to top; `layers` are the digits of layers that are here.

        Raises StorageFullError, LayerRefused when it had to merge first and could not.
        """
        parts = self._merged.parts(layers)
        if len(parts) > MOUNTS_MAX:
            self._merged.merge_now(layers, parts_max=MOUNTS_MAX)
            parts = self._merged.parts(layers)
        if len(parts) > MOUNTS_WANTED:
            self._merged.merge_later(layers)
        decisions = self._decisions(layers, parts)
        covering = [number for number, one in enumerate(decisions) if one.covers]
        start = covering[-1] if covering else 0
        return [
            self._mount(layers, parts, number, decisions[number].file_name)
            for number in range(start, len(parts))
        ]

    def image(self, mount: Mount, layers: Sequence[str]) -> tuple[FilePart, ...]:
        """Return the parts of the squashfs of a mount, which must be there.

        `layers` are those of the plan that the mount is from.
        """
        return image_parts(
            mount.path,
            lambda number: self._root / layers[mount.start + number] / self._tar_name,
        )

    def make(self, mount: Mount, layers: Sequence[str]) -> None:
        """Make the squashfs of a layer unless it is there. Raises StorageFullError, LayerRefused.

        `layers` are those of the plan that the mount is from.
        """
        if mount.digest is None or mount.path.exists():
            return
        own = mount.path.parent
        paths = [self._merged.index_path(layers, span) for span in mount.below]
        paths.append(self._merged.layer_index_path(mount.digest))
        with staging_directory(self._root) as staged, self._indexes.using(paths) as indexes:
            *below, index = indexes
            target = staged / mount.path.name
            build_squashfs(
                index=index,
                tars=[own / self._tar_name],
                variant=mount_variant(index, Stack(below, [span.start for span in mount.below])),
                target=target,
            )
            publish(target, mount.path)

    def _mount(
        self, layers: Sequence[str], parts: Sequence[Span], number: int, file_name: str
    ) -> Mount:
        part = parts[number]
        if not part.is_layer:
            return Mount(path=self._merged.squashfs_path(part), start=part.start, digest=None)
        digest = layers[part.start]
        path = self._root / digest / file_name
        mark_used(path)  # if it is not there, it is made
        return Mount(path=path, start=part.start, digest=digest, below=tuple(parts[:number]))

    def _decisions(self, layers: Sequence[str], parts: Sequence[Span]) -> list[_Decision]:
        keys = [part.chain if part.is_layer else part.key for part in parts]
        with self._lock:
            known = [self._decided.get(key) for key in keys]
        decisions = [one for one in known if one is not None]
        if len(decisions) < len(parts):
            paths = [self._merged.index_path(layers, part) for part in parts]
            starts = [part.start for part in parts]
            with self._indexes.using(paths) as indexes:
                decisions = [
                    self._decide(parts[number], Stack(indexes[:number], starts[:number]), index)
                    if (one := known[number]) is None
                    else one
                    for number, index in enumerate(indexes)
                ]
        self._remember(keys, decisions)
        return decisions

    def _remember(self, keys: Sequence[str], decisions: Sequence[_Decision]) -> None:
        with self._lock:
            for key, decision in zip(keys, decisions, strict=True):
                self._decided[key] = decision
                self._decided.move_to_end(key)
            while len(self._decided) > _REMEMBERED_MAX:
                self._decided.popitem(last=False)

    @staticmethod
    def _decide(part: Span, below: Stack, index: LayerIndex) -> _Decision:
        covers = bool(index.root().opaque)
        if not part.is_layer:
            return _Decision(file_name="", covers=covers)
        return _Decision(file_name=mount_variant(index, below).file_name, covers=covers)
