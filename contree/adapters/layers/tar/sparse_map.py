"""The map of a GNU 1.0 sparse file: decimal text at the head of its content. Reads and writes it.

Source: GNU tar manual, "Storing Sparse Files", PAX Format 1.0: the number of segments, then offset
and length of each, one number a line, padded with zeros to a whole block.
"""

from __future__ import annotations

from collections.abc import Callable

from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Segments
from contree.domain.errors import LayerRefused

_DIGITS_MAX = 20
BLOCK = bounds.BLOCK_BYTES


def read_map(read: Callable[[int], bytes], size: int) -> tuple[list[tuple[int, int]], int]:
    """Read the map off the content, block by block; return its pairs and its length in bytes.

    `size` is the length of the whole content: the map must lie within it.
    """
    numbers: list[int] = []
    wanted: int | None = None
    rest = b""
    taken = 0
    while wanted is None or len(numbers) < 2 * wanted:
        if taken + BLOCK > size + -size % BLOCK or taken >= bounds.SPARSE_MAP_BYTES_MAX:
            raise LayerRefused("a sparse map is cut off or too long")
        *lines, rest = (rest + read(BLOCK)).split(b"\n")
        taken += BLOCK
        for line in lines:
            if wanted is not None and len(numbers) >= 2 * wanted:
                break
            if not line.isdigit() or len(line) > _DIGITS_MAX:
                raise LayerRefused("a sparse map is malformed")
            if wanted is None:
                wanted = int(line)
                if wanted > bounds.SPARSE_SEGMENTS_MAX:
                    raise LayerRefused(
                        f"a sparse file has over {bounds.SPARSE_SEGMENTS_MAX} segments"
                    )
            else:
                numbers.append(int(line))
        if len(rest) > _DIGITS_MAX and len(numbers) < 2 * (wanted or 1):
            raise LayerRefused("a sparse map is malformed")
    if taken > size:
        raise LayerRefused("a sparse map is longer than its file")
    return list(zip(numbers[::2], numbers[1::2], strict=True)), taken


def write_map(segments: Segments, size_bytes: int) -> bytes:
    """Return the padded map. A file that ends in a hole gets an empty segment at its end.

    GNU tar writes that last pair so that readers without realsize know the length.
    """
    pairs = list(segments)
    if not pairs or sum(pairs[-1]) != size_bytes:
        pairs.append((size_bytes, 0))
    text = b"%d\n" % len(pairs) + b"".join(b"%d\n%d\n" % pair for pair in pairs)
    return text + bytes(-len(text) % BLOCK)
