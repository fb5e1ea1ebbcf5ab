"""Built on sizes alone: no files, no layers; the policy is asked what it would merge."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.layers.mounts.spans import FAN_IN, Span, chain_id, extended

KIB = 1024
SIZES = st.integers(0, 36).map(lambda power: int(1.6**power) * KIB)


def spans_of(sizes: Sequence[int]) -> tuple[Span, ...]:
    """Layers named by their number."""
    return extended(
        (), [f"{n:x}" for n in range(len(sizes))], lambda digest: sizes[int(digest, 16)]
    )


def inside(spans: Sequence[Span]) -> Iterator[Span]:
    for span in spans:
        yield span
        yield from inside(span.parts)


def rewritten_bytes(sizes: Sequence[int]) -> int:
    """What all merges write while the image grows layer by layer."""
    digests = [f"{n:x}" for n in range(len(sizes))]
    made: dict[str, int] = {}
    spans: tuple[Span, ...] = ()
    for depth in range(1, len(sizes) + 1):
        spans = extended(spans, digests[:depth], lambda digest: sizes[int(digest, 16)])
        made |= {span.key: span.size_bytes for span in inside(spans[-3:]) if not span.is_layer}
    return sum(made.values())


def shapes() -> dict[str, list[int]]:
    chance = random.Random(4)
    return {
        "equal": [4 * KIB] * 1000,
        "tiny": [1536] * 1000,
        "mixed": [chance.randrange(1536, 100_000) for _ in range(1000)],
        "skewed": [int(2000 + math.exp(chance.gauss(9, 2.5))) for _ in range(1000)],
        "rising": [1536 * 2 ** (n % 10) for n in range(1000)],
        "falling": [1536 * 2 ** (9 - n % 10) for n in range(1000)],
        "on a large base": [80 << 20, 5000, 30 << 20, *[6000] * 997],
    }


@pytest.mark.parametrize("shape", shapes())
def test_a_thousand_small_layers_are_few_spans_at_every_depth(shape: str) -> None:
    sizes = shapes()[shape]
    digests = [f"{n:x}" for n in range(len(sizes))]
    spans: tuple[Span, ...] = ()
    for depth in range(1, len(sizes) + 1):
        spans = extended(spans, digests[:depth], lambda digest: sizes[int(digest, 16)])
        assert len(spans) <= 32


@pytest.mark.parametrize("shape", shapes())
def test_every_byte_is_rewritten_a_few_times_at_most(shape: str) -> None:
    sizes = shapes()[shape]
    assert rewritten_bytes(sizes) <= sum(sizes) * math.log(len(sizes), FAN_IN)


def test_a_large_base_is_not_rewritten_for_what_lies_on_it() -> None:
    sizes = [200 << 20, *[8 * KIB] * 1000]
    assert all(span.is_layer for span in inside(spans_of(sizes)) if span.start == 0)


def test_a_large_layer_is_not_rewritten_for_the_small_ones_under_it() -> None:
    sizes = [8 * KIB] * 3 + [200 << 20] + [8 * KIB] * 3
    assert [(span.start, span.end) for span in spans_of(sizes)] == [
        (0, 3), (3, 4), (4, 5), (5, 6), (6, 7),
    ]  # fmt: skip


@given(sizes=st.lists(SIZES, max_size=120), known=st.integers(0, 120))
def test_spans_tile_the_image_and_do_not_depend_on_how_it_was_reached(
    sizes: list[int], known: int
) -> None:
    digests = [f"{n:x}" for n in range(len(sizes))]
    whole = spans_of(sizes)
    lower = spans_of(sizes[:known])
    assert extended(lower, digests, lambda digest: sizes[int(digest, 16)]) == whole
    for span in inside(whole):
        tiles = span.parts or (span,)
        assert [tile.start for tile in tiles[1:]] == [tile.end for tile in tiles[:-1]]
        assert (tiles[0].start, tiles[-1].end) == (span.start, span.end)
        assert span.size_bytes == sum(sizes[span.start : span.end])
        assert span.is_layer == (span.end - span.start == 1)
    assert [tile for span in whole for tile in (span.start, span.end)] == sorted(
        tile for span in whole for tile in (span.start, span.end)
    )
    assert sum(span.end - span.start for span in whole) == len(sizes)


@given(sizes=st.lists(SIZES, min_size=1, max_size=400))
def test_no_order_of_sizes_makes_a_plan_long(sizes: list[int]) -> None:
    # Of each class FAN_IN - 1 at most, each with one smaller span buried under it.
    classes = {span.size_class for span in inside(spans_of(sizes))}
    assert len(spans_of(sizes)) <= 2 * (FAN_IN - 1) * len(classes)


def test_equal_layers_on_other_layers_are_another_span() -> None:
    size = 8 * KIB
    one = extended((), ["base", *"abcdef"], lambda d: size * 99 if d == "base" else size)
    two = extended((), ["else", *"abcdef"], lambda d: size * 99 if d == "else" else size)
    assert not {span.key for span in inside(one)} & {span.key for span in inside(two)}


def test_chain_ids_are_the_specifications() -> None:
    import hashlib

    below = hashlib.sha256(b"sha256:aa").hexdigest()
    assert chain_id("", "aa") == below
    assert chain_id(below, "bb") == hashlib.sha256(f"{below} sha256:bb".encode()).hexdigest()
