"""Which files of an image a search reads, in which order, and what they are called there.

The view of an image, every text file that its layers show, is made once and kept for the next
searches; asked paths and globs choose from it, and what they chose is kept as well. Names of the
image are only compared here, never opened.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from contree.adapters.layers.index.stack import Node, Stack
from contree.adapters.layers.search.globs import Globs
from contree.adapters.layers.search.tree import Tree
from contree.adapters.layers.tar.entry import Kind

CHUNK_FILES_MAX: Final = 12_000
"""Names that one run of ripgrep is given. Each is about 75 bytes, 83 with its pointer, so that all
are half of the 2 MiB that execve(2) takes under the usual limit on the stack."""

CHUNK_COST_MIN: Final = 8 * 1024**2
CHUNK_COST_MAX: Final = 128 * 1024**2
"""What one run reads: enough that its start does not matter, little enough that a search with many
matches ends early. In between, each processor gets as much as the others."""

VIEW_FILE_BYTES: Final = 250
"""Memory of a file in a View: its path and the name of its text."""

SCOPE_FILE_BYTES: Final = 150
"""Memory of a file in a Scope, should no View hold the name any more."""

FILE_COST: Final = 16 * 1024
"""What a file costs beside its bytes, in bytes that could be read instead."""

_BELOW: Final = b"\0"
"""Stands for `/` in a view's paths: no name has it and it sorts before all others, so that the
order of bytes is that of listings, directory by directory."""


@dataclass(slots=True, kw_only=True)
class View:
    """Every text file that an image shows, in order; the columns go together.

    texts   the files' names in SearchTrees.directory; empty = left out by a bound
    """

    paths: list[bytes] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("q"))

    def below(self, directory: bytes) -> range:
        """Return where the files under `directory` (with `/`, '' = the root) are."""
        if not directory:
            return range(len(self.paths))
        prefix = directory.replace(b"/", _BELOW)
        start = bisect_left(self.paths, prefix + b"\0")
        return range(start, bisect_left(self.paths, prefix + b"\1"))

    def at(self, path: bytes) -> range:
        """Return where the file `path` is: one place or none."""
        wanted = path.replace(b"/", _BELOW)
        start = bisect_left(self.paths, wanted)
        found = start < len(self.paths) and self.paths[start] == wanted
        return range(start, start + found)


def view_of(stack: Stack, trees: Sequence[Tree]) -> View:
    """Walk the whole image; `trees` are those of its layers, bottom to top."""
    view = View()
    for node in _regular_files(stack):
        tree = trees[node.layer]
        number = node.row.ino
        if number in tree.there:
            text = f"{tree.name}/{number}".encode()
        elif number in tree.left_out:
            text = b""
        else:
            continue
        view.paths.append(node.path.replace(b"/", _BELOW))
        view.texts.append(text)
        view.sizes.append(node.row.size_bytes)
    return view


def _regular_files(stack: Stack) -> Iterator[Node]:
    pending = [stack.children(stack.root())]
    while pending:
        node = next(pending[-1], None)
        if node is None:
            pending.pop()
        elif node.is_directory:
            pending.append(stack.children(node))
        elif node.row.kind == Kind.REGULAR and node.row.size_bytes:
            yield node


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A path that was asked for. Neither has a leading slash; '' is the image's root.

    asked   as the caller names it
    real    where it is, without symbolic links
    """

    asked: bytes
    real: bytes
    is_directory: bool

    def shown(self, path: bytes) -> bytes:
        """Return what a file is called for the caller; `path` is as in a View."""
        below = path[len(self.real) :].replace(_BELOW, b"/")
        return (self.asked + below).lstrip(b"/")


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Files for one run of ripgrep, in order; the columns go together.

    texts    as in the view
    places   where they are in the view
    roots    what they were found below
    """

    texts: list[bytes] = field(default_factory=list)
    places: array[int] = field(default_factory=lambda: array("l"))
    roots: list[Root] = field(default_factory=list)
    cost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a search reads; `is_partial` when a bound leaves some of it out."""

    chunks: Sequence[Chunk]
    is_partial: bool

    @property
    def file_count(self) -> int:
        return sum(len(chunk.texts) for chunk in self.chunks)


def scope_of(view: View, roots: Sequence[Root], globs: Globs, *, processors: int) -> Scope:
    """Choose the files below `roots` that `globs` take, each name once, in order."""
    chosen = list(_chosen(view, roots, globs))
    readable = [(root, place) for root, place in chosen if view.texts[place]]
    total = sum(view.sizes[place] + FILE_COST for _, place in readable)
    cost_max = _chunk_cost(total, len(readable), processors)
    chunks: list[Chunk] = []
    for root, place in readable:
        if not chunks or len(chunks[-1].texts) >= CHUNK_FILES_MAX or chunks[-1].cost >= cost_max:
            chunks.append(Chunk())
        chunk = chunks[-1]
        chunk.texts.append(view.texts[place])
        chunk.places.append(place)
        chunk.roots.append(root)
        chunk.cost += view.sizes[place] + FILE_COST
    return Scope(chunks=chunks, is_partial=len(readable) < len(chosen))


def _chunk_cost(total: int, file_count: int, processors: int) -> float:
    """Return what a chunk may cost so that all processors are done at the same time."""
    rounds = max(
        1,
        ceil(total / (CHUNK_COST_MAX * processors)),
        ceil(file_count / (CHUNK_FILES_MAX * processors)),
    )
    return max(CHUNK_COST_MIN, total / (rounds * processors))


def _chosen(view: View, roots: Sequence[Root], globs: Globs) -> Iterator[tuple[Root, int]]:
    names_seen: set[bytes] = set()
    for root in roots:
        if root.is_directory:
            # As in ripgrep, globs choose among what a walk meets, not what the caller names.
            within = _Filter(globs, root.asked) if globs else None
            places = view.below(root.real)
        else:
            within, places = None, view.at(root.real)
        for place in places:
            if within is not None or len(roots) > 1:
                name = root.shown(view.paths[place])
                if within is not None and not within.takes(name):
                    continue
                if len(roots) > 1 and name in names_seen:
                    continue
                names_seen.add(name)
            yield root, place


class _Filter:
    """Globs on a walk below `top`; a directory that is not entered hides all that is below it."""

    def __init__(self, globs: Globs, top: bytes) -> None:
        self._globs = globs
        self._entered: dict[bytes, bool] = {top: True, b"": True}

    def takes(self, path: bytes) -> bool:
        return self._enters(path.rpartition(b"/")[0]) and self._globs.takes_file(path)

    def _enters(self, directory: bytes) -> bool:
        trail = []
        while (known := self._entered.get(directory)) is None:
            trail.append(directory)
            directory = directory.rpartition(b"/")[0]
        for step in reversed(trail):
            known = known and self._globs.enters(step)
            self._entered[step] = known
        return known
