"""Which squashfs of a layer fits on which layers below.

Layers are shared between images, and two things that a layer holds mean something only with what is
below it. Directories that it only implies show the metadata of the ones below. And a whiteout that
hides nothing must not be there at all: in a directory that only one layer has, the kernel lists it
by name (measured on 6.1). So a layer has one squashfs for each answer to these: nearly always one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from contree.adapters.layers.index.reader import LayerIndex
from contree.adapters.layers.index.schema import implied_directory, pack_xattrs
from contree.adapters.layers.index.stack import Node, Stack
from contree.adapters.layers.tar.entry import TarEntry

FORMAT: Final = 2
"""Part of the name: raise it when `squashfs` makes something else of the same layer."""

_KEY_DIGITS: Final = 16
_NOTHING_BELOW: Final = implied_directory(b"", b"", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountVariant:
    """What to make of a layer.

    key       tells variants apart; `self` when nothing depends on what is below
    borrowed  for each implied directory by path, the entry whose metadata it shows
    idle      whiteouts to leave out
    """

    key: str
    borrowed: Mapping[bytes, TarEntry]
    idle: frozenset[bytes]

    @property
    def file_name(self) -> str:
        return f"mount-v{FORMAT}-{self.key}.squashfs"


def mount_variant(layer: LayerIndex, below: Stack) -> MountVariant:
    """Return the variant of `layer` for mounting on `below`."""
    borrowed: dict[bytes, TarEntry] = {}
    digest = hashlib.sha256()
    for path in layer.implied_directories():
        node = _below(layer, below, path)
        row = node.row if node is not None and node.is_directory else _NOTHING_BELOW
        entry = row.entry()
        borrowed[path] = entry
        told = (path, entry.mode, entry.uid, entry.gid, entry.mtime_s, pack_xattrs(entry.xattrs))
        digest.update(repr(told).encode())
    idle = [path for path in layer.whiteouts() if _below(layer, below, path) is None]
    for path in idle:
        digest.update(repr(path).encode())
    key = digest.hexdigest()[:_KEY_DIGITS] if borrowed or idle else "self"
    return MountVariant(key=key, borrowed=borrowed, idle=frozenset(idle))


def _below(layer: LayerIndex, below: Stack, path: bytes) -> Node | None:
    """Return what is below at `path`, None where an opaque directory of the layer hides it."""
    parts = path.split(b"/") if path else []
    for end in range(len(parts)):
        row = layer.at(b"/".join(parts[:end]))
        if row is not None and row.opaque:
            return None
    return below.find(path)
