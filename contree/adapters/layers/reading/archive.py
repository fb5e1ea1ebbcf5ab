"""A pax tar of part of an image, streamed from its layers, merged as overlayfs shows them.

Memory is bounded by the depth of the tree and by the number of files that have several names; the
order is depth-first, by name, so that equal trees give equal archives. Whiteouts do not appear:
this is what is there, not a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from contree.adapters.layers.index.stack import Node, Stack
from contree.adapters.layers.reading.content import read_range
from contree.adapters.layers.reading.open_tars import OpenTars
from contree.adapters.layers.tar.entry import Kind, TarEntry
from contree.adapters.layers.tar.writer import END_OF_ARCHIVE, header, padding


def archive_pieces(stack: Stack, top: Node, tars: Sequence[Path]) -> Iterator[bytes]:
    """Yield the archive of `top` and all below it; `tars` are the layers' tars, bottom to top.

    Members lie under the base name of `top`, for the root under `.`. Closing the generator closes
    what it holds open.
    """
    opened = OpenTars(tars)
    first_names: dict[tuple[int, int], bytes] = {}
    try:
        base = top.path.rpartition(b"/")[2] or b"."
        for name, node in _walk(stack, top, base):
            entry = replace(node.row.entry(), path=name, opaque=False)
            if node.row.link_count > 1 and entry.kind is not Kind.DIRECTORY:
                first = first_names.setdefault((node.layer, node.row.ino), name)
                if first != name:
                    entry = entry.named_again(first)
            yield header(entry)
            if entry.stored_bytes:
                yield from _content(opened, node, entry)
        yield END_OF_ARCHIVE
    finally:
        opened.close()


def _walk(stack: Stack, top: Node, base: bytes) -> Iterator[tuple[bytes, Node]]:
    yield base, top
    if not top.is_directory:
        return
    pending = [(base, stack.children(top))]
    while pending:
        prefix, nodes = pending[-1]
        node = next(nodes, None)
        if node is None:
            pending.pop()
            continue
        name = prefix + b"/" + node.row.name
        yield name, node
        if node.is_directory:
            pending.append((name, stack.children(node)))


def _content(opened: OpenTars, node: Node, entry: TarEntry) -> Iterator[bytes]:
    descriptor = opened.descriptor(node.layer)
    yield from read_range(descriptor, entry.data_offset, entry.stored_bytes)
    filler = padding(entry.stored_bytes)
    if filler:
        yield filler
