"""Which layers of a deep image are merged with which: a policy of sizes, nothing of files.

Merging is size-tiered, as in an LSM tree: spans of the same size class are merged when FAN_IN of
them stand side by side, and the result is at least one class larger. So a byte is rewritten at most
once for each class that it climbs, O(n log n) in all, and an image of n similar layers is about
(FAN_IN - 1) * log(n) spans. A small span that a larger one buries waits for that one to be merged:
a huge layer is never rewritten to fold a small one. Spans follow from the sizes of the layers
alone, so every machine, and every branch of an image, comes to the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

FAN_IN: Final = 4
"""A guest pays about 6 ms for each mount: four leaves fewer of them than eight or ten would."""

FORMAT: Final = 1
"""Part of each merged span's name: raise it when the same layers merge to something else."""

_CLASS_BITS: Final = 2  # log2(FAN_IN)
_SMALLEST_BYTES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The layers from `start` to before `end` of an image, 0 = bottom.

    size_bytes  sum of their tars; merging may leave less
    chain       chain id of the layer `end - 1` (OCI image-spec config.md): it tells everything that
                is in the span and all that is below it
    parts       what it is merged of, bottom to top; empty for a single layer
    """

    start: int
    end: int
    size_bytes: int
    chain: str
    parts: tuple[Span, ...] = ()

    @property
    def is_layer(self) -> bool:
        return not self.parts

    @property
    def key(self) -> str:
        """Name of the merged span: equal for equal layers on equal layers."""
        return span_key(self.chain, self.end - self.start)

    @property
    def size_class(self) -> int:
        return max(self.size_bytes // _SMALLEST_BYTES, 1).bit_length() - 1 >> (_CLASS_BITS - 1)


def span_key(chain: str, layer_count: int) -> str:
    """Return the name of the merged span of so many layers whose uppermost has this chain id."""
    return hashlib.sha256(f"{FORMAT} {chain} {layer_count}".encode()).hexdigest()


def chain_id(below: str, digest: str) -> str:
    """Return the chain id of the layer with these digits on the chain `below`, '' = on nothing."""
    joined = f"{below} sha256:{digest}" if below else f"sha256:{digest}"
    return hashlib.sha256(joined.encode()).hexdigest()


def extended(
    spans: Sequence[Span], layers: Sequence[str], size_bytes: Callable[[str], int]
) -> tuple[Span, ...]:
    """Return the spans of an image of `layers`, given those of some of its lower layers."""
    held = list(spans)
    chain = held[-1].chain if held else ""
    start = held[-1].end if held else 0
    for position in range(start, len(layers)):
        digest = layers[position]
        chain = chain_id(chain, digest)
        _push(
            held,
            Span(start=position, end=position + 1, size_bytes=size_bytes(digest), chain=chain),
        )
    return tuple(held)


def _push(held: list[Span], span: Span) -> None:
    """Put `span` on top; merge what is then due."""
    first = len(held)
    while first and held[first - 1].size_class < span.size_class:
        first -= 1
    buried = held[first:]
    if len(buried) > 1:
        # Several small ones under a larger one: made one, so that they cannot pile up.
        del held[first:]
        _push(held, _merged(buried))
    held.append(span)
    first = len(held)
    alike = 0
    while first and held[first - 1].size_class <= span.size_class:
        first -= 1
        alike += held[first].size_class == span.size_class
    if alike >= FAN_IN:
        due = held[first:]
        del held[first:]
        _push(held, _merged(due))


def _merged(parts: Sequence[Span]) -> Span:
    flat: list[Span] = list(parts)
    return Span(
        start=flat[0].start,
        end=flat[-1].end,
        size_bytes=sum(one.size_bytes for one in flat),
        chain=flat[-1].chain,
        parts=tuple(flat),
    )
