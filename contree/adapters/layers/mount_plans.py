"""What a guest mounts for a stack of layers, and the making of what is not there yet.

A layer's variant depends on all that is below it, so decisions are remembered by chain id (OCI
image-spec config.md: the digest of a layer and everything under it): a new layer on a known image
costs one decision, however deep the image is. Blocking throughout; safe in several threads.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contree.adapters.layers.index_reader import IndexCache, LayerIndex
from contree.adapters.layers.mount_variant import mount_variant
from contree.adapters.layers.squashfs import build_squashfs
from contree.adapters.layers.stack import Stack
from contree.adapters.layers.staging import publish, staging_directory

_REMEMBERED_MAX: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """The squashfs of the layer at `position` of a stack, there or to be made."""

    path: Path
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    """`covers` says that the layer's root is opaque: nothing below it shows."""

    file_name: str
    covers: bool


class MountPlans:
    """Plans over the layers in `root`, whose directories have their digits for names."""

    def __init__(self, root: Path, indexes: IndexCache, *, tar_name: str, index_name: str) -> None:
        self._root = root
        self._indexes = indexes
        self._tar_name = tar_name
        self._index_name = index_name
        self._lock = threading.Lock()
        self._decided: OrderedDict[str, _Decision] = OrderedDict()

    def plan(self, layers: Sequence[str]) -> list[Mount]:
        """Return what to mount, bottom to top; `layers` are the digits of layers that are here."""
        chains = _chain_ids(layers)
        decisions = self._remembered(chains)
        if None in decisions:
            with self._indexes.using([self._index(digest) for digest in layers]) as indexes:
                for position, known in enumerate(decisions):
                    if known is None:
                        decisions[position] = _decide(indexes, position)
        known_now = [decision for decision in decisions if decision is not None]
        self._remember(chains, known_now)
        covering = [position for position, one in enumerate(known_now) if one.covers]
        start = covering[-1] if covering else 0
        return [
            Mount(path=self._root / layers[position] / one.file_name, position=position)
            for position, one in enumerate(known_now)
            if position >= start
        ]

    def make(self, layers: Sequence[str], mount: Mount) -> None:
        """Make the squashfs unless it is there. Raises StorageFullError, LayerRefused."""
        if mount.path.exists():
            return
        paths = [self._index(digest) for digest in layers[: mount.position + 1]]
        with staging_directory(self._root) as staged, self._indexes.using(paths) as indexes:
            *below, index = indexes
            target = staged / mount.path.name
            build_squashfs(
                index=index,
                tar=mount.path.with_name(self._tar_name),
                variant=mount_variant(index, Stack(below)),
                target=target,
            )
            publish(target, mount.path)

    def _index(self, digest: str) -> Path:
        return self._root / digest / self._index_name

    def _remembered(self, chains: Sequence[str]) -> list[_Decision | None]:
        with self._lock:
            return [self._decided.get(chain) for chain in chains]

    def _remember(self, chains: Sequence[str], decisions: Sequence[_Decision]) -> None:
        with self._lock:
            for chain, decision in zip(chains, decisions, strict=True):
                self._decided[chain] = decision
                self._decided.move_to_end(chain)
            while len(self._decided) > _REMEMBERED_MAX:
                self._decided.popitem(last=False)


def _decide(indexes: Sequence[LayerIndex], position: int) -> _Decision:
    index = indexes[position]
    variant = mount_variant(index, Stack(indexes[:position]))
    return _Decision(file_name=variant.file_name, covers=bool(index.root().opaque))


def _chain_ids(layers: Sequence[str]) -> list[str]:
    chains: list[str] = []
    for digest in layers:
        below = chains[-1] + " " if chains else ""
        chains.append(hashlib.sha256(f"{below}sha256:{digest}".encode()).hexdigest())
    return chains
