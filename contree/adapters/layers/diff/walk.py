"""Two stacks side by side, in the byte order of whole paths, without what both have in common.

A directory whose lower part is made of the same indexes in both stacks can differ only in what the
other indexes name in it: these names alone are looked up. So the cost follows the layers that only
one of the images has. Where the lower parts differ (other images, opaque directories, something
else in a directory's place) all names of both sides are merged. Memory is bounded by the depth of
the tree.

`a.b` sorts between `a` and `a/b`: what is in a directory waits until its siblings have passed that
sort before `/`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from contree.adapters.layers.index.stack import Node, Stack
from contree.adapters.layers.tar.entry import join_path


class Pair(NamedTuple):
    """What two images have at a path; None is nothing. Not always different."""

    path: bytes
    before: Node | None
    after: Node | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which paths: `paths` and all below them, from beyond `beyond` on; '' is the root."""

    paths: Sequence[bytes] = (b"",)
    beyond: bytes | None = None

    def has(self, path: bytes) -> bool:
        return (self.beyond is None or path > self.beyond) and self._is_within(path)

    def reaches_into(self, directory: bytes) -> bool:
        """Whether anything below the directory may be wanted."""
        # What is below `d` begins with `d/`; "0" is the byte after "/".
        if directory and self.beyond is not None and directory + b"0" <= self.beyond:
            return False
        return self._is_within(directory) or bool(self.names_in(directory))

    def names_in(self, directory: bytes) -> list[bytes] | None:
        """Return the names that lead on to what is wanted; None is all names."""
        if self._is_within(directory):
            return None
        start = directory + b"/" if directory else b""
        below = (path[len(start) :] for path in self.paths if path.startswith(start))
        return sorted({rest.split(b"/", 1)[0] for rest in below})

    def _is_within(self, path: bytes) -> bool:
        return any(not top or path == top or path.startswith(top + b"/") for top in self.paths)


def walk(before: Stack, after: Stack, *, shared: int, scope: Scope) -> Iterator[Pair]:
    """Yield the pairs of the scope that may differ.

    `shared` is the number of indexes that both stacks have in common, from the bottom.
    """
    root = Pair(b"", before.root(), after.root())
    if scope.has(b""):
        yield root
    sides = _Sides(before, after, shared, scope)
    open_directories = [_Directory(sides.inside(root))]
    while open_directories:
        found = open_directories[-1].next()
        if found is None:
            open_directories.pop()
            continue
        pair, is_first = found
        if not is_first:
            open_directories.append(_Directory(sides.inside(pair)))
        elif scope.has(pair.path):
            yield pair


class _Directory:
    """Steps through one directory: each pair when it is its turn, and again for what is in it."""

    def __init__(self, pairs: Iterator[Pair]) -> None:
        self._pairs = pairs
        self._ahead = next(pairs, None)
        self._waiting: list[tuple[bytes, Pair]] = []

    def next(self) -> tuple[Pair, bool] | None:
        """Return a pair and whether this is the first time; the second time it is a directory."""
        pair = self._ahead
        if self._waiting and (pair is None or self._waiting[0][0] < pair.path):
            return heapq.heappop(self._waiting)[1], False
        if pair is None:
            return None
        if _is_directory(pair.before) or _is_directory(pair.after):
            heapq.heappush(self._waiting, (pair.path + b"/", pair))
        self._ahead = next(self._pairs, None)
        return pair, True


@dataclass(frozen=True, slots=True)
class _Sides:
    before: Stack
    after: Stack
    shared: int
    scope: Scope

    def inside(self, pair: Pair) -> Iterator[Pair]:
        """Yield what is in a directory of either side and may differ, by name."""
        if not self.scope.reaches_into(pair.path):
            return iter(())
        one = pair.before if _is_directory(pair.before) else None
        other = pair.after if _is_directory(pair.after) else None
        names: Iterator[bytes] | None = None
        wanted = self.scope.names_in(pair.path)
        if wanted is not None:
            names = iter(wanted)
        elif one is not None and other is not None and self._lower(one) == self._lower(other):
            said = (
                self.before.named_from(self.shared, one),
                self.after.named_from(self.shared, other),
            )
            names = (name for name, _ in groupby(heapq.merge(*said)))
        if names is None:
            return self._all(pair.path, one, other)
        return (
            Pair(
                join_path(pair.path, name),
                None if one is None else self.before.child(one, name),
                None if other is None else self.after.child(other, name),
            )
            for name in names
        )

    def _all(self, path: bytes, one: Node | None, other: Node | None) -> Iterator[Pair]:
        sides = [
            _named(stack.children(directory), side)
            for side, (stack, directory) in enumerate(((self.before, one), (self.after, other)))
            if directory is not None
        ]
        for name, same in groupby(heapq.merge(*sides, key=itemgetter(0)), key=itemgetter(0)):
            nodes: list[Node | None] = [None, None]
            for _, side, node in same:
                nodes[side] = node
            yield Pair(join_path(path, name), *nodes)

    def _lower(self, directory: Node) -> tuple[int, ...]:
        return tuple(number for number in directory.merged if number < self.shared)


def _named(nodes: Iterator[Node], side: int) -> Iterator[tuple[bytes, int, Node]]:
    return ((node.row.name, side, node) for node in nodes)


def _is_directory(node: Node | None) -> bool:
    return node is not None and node.is_directory
