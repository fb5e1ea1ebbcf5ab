"""Which lines of a text another one replaces. Pure; its cost is bounded whatever the texts are.

Few edits are found by Myers' O(ND) algorithm and are the fewest there can be. Where they are not
few, lines that both texts have once are taken for the same (patience diff), and what lies between
them is compared by itself. What is left when the budget is spent counts as replaced: right, but not
the shortest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

EDITS_MAX: Final = 512
"""Lines removed and added that Myers' algorithm looks for in one stretch."""

STEPS_MAX: Final = 4_000_000
"""Comparisons of lines for one pair of texts, in all: a few seconds at the most."""


class Edit(NamedTuple):
    """Lines `before_start` to before `before_end` became `after_start` to before `after_end`."""

    before_start: int
    before_end: int
    after_start: int
    after_end: int


class _Same(NamedTuple):
    """So many equal lines, from there on."""

    before: int
    after: int
    lines: int


def lines_of(text: bytes) -> list[bytes]:
    """Return the lines with their ends; only a newline ends one."""
    lines = text.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def line_edits(before: Sequence[bytes], after: Sequence[bytes]) -> list[Edit]:
    """Return the edits that make `after` of `before`, in order; none of them touch."""
    numbers: dict[bytes, int] = {}
    one = [numbers.setdefault(line, len(numbers)) for line in before]
    other = [numbers.setdefault(line, len(numbers)) for line in after]
    found: list[Edit] = []
    before_at = after_at = 0
    for same in (*_Comparison(one, other).same(), _Same(len(one), len(other), 0)):
        edit = Edit(before_at, same.before, after_at, same.after)
        if edit.before_start < edit.before_end or edit.after_start < edit.after_end:
            found.append(edit)
        before_at, after_at = same.before + same.lines, same.after + same.lines
    return found


class _Comparison:
    def __init__(self, one: list[int], other: list[int]) -> None:
        self._one = one
        self._other = other
        self._steps_left = STEPS_MAX

    def same(self) -> Iterator[_Same]:
        """Yield what is equal, in order."""
        pending: list[Edit | _Same] = [Edit(0, len(self._one), 0, len(self._other))]
        while pending:
            part = pending.pop()
            if isinstance(part, _Same):
                yield part
            else:
                pending += reversed(self._parts(part))

    def _parts(self, range_: Edit) -> list[Edit | _Same]:
        """Return what is the same in a stretch, with what is still to be compared between."""
        one = self._one[range_.before_start : range_.before_end]
        other = self._other[range_.after_start : range_.after_end]
        head = _common(zip(one, other, strict=False))
        one, other = one[head:], other[head:]
        tail = _common(zip(reversed(one), reversed(other), strict=False))
        one, other = one[: len(one) - tail], other[: len(other) - tail]
        at = range_.before_start + head, range_.after_start + head
        parts: list[Edit | _Same] = []
        if head:
            parts.append(_Same(range_.before_start, range_.after_start, head))
        parts += self._middle(one, other, *at)
        if tail:
            parts.append(_Same(at[0] + len(one), at[1] + len(other), tail))
        return parts

    def _middle(
        self, one: list[int], other: list[int], before_at: int, after_at: int
    ) -> list[Edit | _Same]:
        size = len(one) + len(other)
        if not one or not other or self._steps_left <= 0:
            return []
        most = min(EDITS_MAX, size, self._steps_left // size)
        found = _fewest_edits(one, other, most)
        self._steps_left -= size * most
        if found is not None:
            return [_Same(before_at + x, after_at + y, count) for x, y, count in found]
        parts: list[Edit | _Same] = []
        done = before_at, after_at
        for x, y in _once_in_both(one, other):
            same = _Same(before_at + x, after_at + y, 1)
            parts += [Edit(done[0], same.before, done[1], same.after), same]
            done = same.before + 1, same.after + 1
        if parts:
            parts.append(Edit(done[0], before_at + len(one), done[1], after_at + len(other)))
        return parts


def _common(pairs: Iterable[tuple[int, int]]) -> int:
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


def _fewest_edits(one: list[int], other: list[int], most: int) -> list[_Same] | None:
    """Return what is the same with the fewest edits; None when these are more than `most`.

    E. Myers, An O(ND) Difference Algorithm and Its Variations, 1986.
    """
    reach = [0] * (2 * most + 3)
    middle = most + 1
    trace: list[list[int]] = []
    for edits in range(most + 1):
        trace.append(reach[middle - edits - 1 : middle + edits + 2])
        for k in range(-edits, edits + 1, 2):
            x = _step(reach, middle, k, edits)
            y = x - k
            while x < len(one) and y < len(other) and one[x] == other[y]:
                x, y = x + 1, y + 1
            reach[middle + k] = x
            if x == len(one) and y == len(other):
                return _traced(trace, x, y)
    return None


def _step(reach: list[int], middle: int, k: int, edits: int) -> int:
    """Return how far the edit gets that leads to diagonal `k`."""
    if _is_down(reach, middle, k, edits):
        return reach[middle + k + 1]
    return reach[middle + k - 1] + 1


def _is_down(reach: list[int], middle: int, k: int, edits: int) -> bool:
    if k == -edits:
        return True
    return k != edits and reach[middle + k - 1] < reach[middle + k + 1]


def _traced(trace: list[list[int]], x: int, y: int) -> list[_Same]:
    found: list[_Same] = []
    for edits in range(len(trace) - 1, -1, -1):
        reach, middle, k = trace[edits], edits + 1, x - y
        start = 0 if edits == 0 else _step(reach, middle, k, edits)
        if x > start:
            found.append(_Same(start, start - k, x - start))
        if edits:
            below = k + 1 if _is_down(reach, middle, k, edits) else k - 1
            x = reach[middle + below]
            y = x - below
    return found[::-1]


def _once_in_both(one: list[int], other: list[int]) -> list[tuple[int, int]]:
    """Return the longest rising chain of lines that each text has once."""
    counts = Counter(one), Counter(other)
    places = {line: y for y, line in enumerate(other) if counts[1][line] == 1}
    pairs = [
        (x, places[line]) for x, line in enumerate(one) if counts[0][line] == 1 and line in places
    ]
    ends: list[int] = []
    chains: list[int] = []
    below: list[int | None] = []
    for number, (_, y) in enumerate(pairs):
        at = bisect_left(ends, y)
        below.append(chains[at - 1] if at else None)
        ends[at : at + 1] = [y]
        chains[at : at + 1] = [number]
    found: list[tuple[int, int]] = []
    last = chains[-1] if chains else None
    while last is not None:
        found.append(pairs[last])
        last = below[last]
    return found[::-1]
