"""Edits of lines: they make one text of the other, are few, and their cost is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from contree.domain.line_edits import Edit, line_edits, lines_of

TEXTS = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n"]), max_size=30)


def applied(before: Sequence[bytes], after: Sequence[bytes], edits: Sequence[Edit]) -> list[bytes]:
    made: list[bytes] = []
    at = 0
    for edit in edits:
        made += before[at : edit.before_start]
        made += after[edit.after_start : edit.after_end]
        at = edit.before_end
    return [*made, *before[at:]]


def longest_common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    row = [0] * (len(other) + 1)
    for line in one:
        above, row = row, [0]
        for at, against in enumerate(other):
            row.append(above[at] + 1 if line == against else max(above[at + 1], row[at]))
    return row[-1]


@given(before=TEXTS, after=TEXTS)
def test_edits_make_one_text_of_the_other_and_are_the_fewest(
    before: list[bytes], after: list[bytes]
) -> None:
    edits = line_edits(before, after)
    assert applied(before, after, edits) == after
    removed = sum(edit.before_end - edit.before_start for edit in edits)
    assert len(before) - removed == longest_common(before, after)
    for one, other in pairwise(edits):
        assert one.before_end < other.before_start


def test_many_changes_are_told_apart_by_lines_that_are_there_once() -> None:
    before = [b"%d\n" % n for n in range(5000)]
    after = [line if n % 5 else b"new\n" for n, line in enumerate(before)]
    edits = line_edits(before, after)
    assert edits == [Edit(n, n + 1, n, n + 1) for n in range(0, 5000, 5)]


def test_texts_that_are_costly_to_compare_are_given_up_on() -> None:
    before, after = [b"x\n", b"y\n"] * 20_000, [b"y\n", b"z\n", b"x\n"] * 20_000
    edits = line_edits(before, after)
    assert applied(before, after, edits) == after


def test_only_a_newline_ends_a_line() -> None:
    assert lines_of(b"a\r\x0b\n\nb") == [b"a\r\x0b\n", b"\n", b"b"]
    assert lines_of(b"") == []
    assert lines_of(b"\n") == [b"\n"]
