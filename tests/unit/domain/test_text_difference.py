"""Where texts part, and what counts as explained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.domain.text_difference import (
    COMPARED_BYTES_MAX,
    EXCERPT_BYTES,
    Cause,
    causes_of,
    first_difference,
)

CLOCK, RANDOMNESS = {Cause.CLOCK}, {Cause.RANDOMNESS}


@pytest.mark.parametrize(
    ("original", "replay", "causes"),
    [
        (b"at 2026-11-24T20:00:01Z", b"at 2026-11-25T08:10:01.5+01:00", CLOCK),
        (b"Tue Nov 24 20:07:03 UTC 2026\n", b"Wed Nov  4 07:08:13 UTC 2027\n", CLOCK),
        (b"[20:00:01] go", b"[20:00:02] go", CLOCK),
        (b"1795464000", b"1795464999", CLOCK),
        (b"3 passed in 0.12s", b"3 passed in 12.7s", CLOCK),
        (b"real 0m0.012s", b"real 0m1.3s", CLOCK),
        (b"/tmp/tmpab12cd34", b"/tmp/tmpzz92cd34", RANDOMNESS),
        (
            b"6b1d6bce-1a0d-4b0b-9d16-11d8a3a0c111",
            b"00000000-1a0d-4b0b-9d16-11d8a3a0c112",
            RANDOMNESS,
        ),
        (b"<object at 0x7fff12345678>", b"<object at 0x7ffe00000000>", RANDOMNESS),
        (b"key pAx9Wq2Lm4Zr7Ty1Bv6C==", b"key qAx9Wq2Lm4Zr7Ty1Bv6D==", RANDOMNESS),
        (b"rVrgcaadfjvxplHQBIIMQQ==\n", b"aeOBjA3HoD8RxB/V6jaf7g==\n", RANDOMNESS),  # no digit
        (b"tmp.Ab3dEf at 10:11:12", b"tmp.Xb3dEf at 10:11:13", CLOCK | RANDOMNESS),
        (b"3 passed in 0.12s", b"4 passed in 0.12s", {Cause.UNEXPLAINED}),
        (b"at 10:00 got a", b"at 10:01 got b", {Cause.UNEXPLAINED}),
        (b"a" * 32 + b" f", b"b" * 32 + b" f", {Cause.UNEXPLAINED}),  # other digests
        (b"THE_LONGEST_NAME_OF=", b"ANOTHER_LONGEST_NAME=", {Cause.UNEXPLAINED}),
        (b"anOrdinaryLongWordOfText", b"another_word_of_this_text", {Cause.UNEXPLAINED}),
        (b"done", b"done\n", {Cause.UNEXPLAINED}),
        (b"same 10:00", b"same 10:00", set()),
    ],
)
def test_a_difference_is_explained_by_its_form(
    original: bytes, replay: bytes, causes: set[Cause]
) -> None:
    assert causes_of(original, replay) == causes
    assert causes_of(replay, original) == causes


def test_what_is_too_long_to_look_at_is_unexplained() -> None:
    long = b"10:00 " * (COMPARED_BYTES_MAX // 6 + 1)
    assert causes_of(long, long[:-6] + b"10:01 ") == {Cause.UNEXPLAINED}


def test_the_line_of_the_first_difference_is_shown() -> None:
    found = first_difference(b"one\ntwo\nthree\n", b"one\ntwo\nthrew\n")
    assert found is not None
    assert (found.offset, found.line) == (12, 3)
    assert (found.original, found.replay) == (b"three", b"threw")


def test_a_text_that_ends_sooner_differs_where_it_ends() -> None:
    found = first_difference(b"one\ntwo\n", b"one\n")
    assert found is not None
    assert (found.offset, found.line, found.original, found.replay) == (4, 2, b"two", b"")


def test_the_excerpt_of_a_long_line_is_bounded() -> None:
    found = first_difference(b"x" * 10_000 + b"a" * 10_000, b"x" * 10_000 + b"b" * 10_000)
    assert found is not None
    assert len(found.original) == len(found.replay) == 2 * EXCERPT_BYTES


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_first_difference_is_the_first(one: bytes, other: bytes) -> None:
    found = first_difference(one, other)
    if found is None:
        assert one == other
        return
    assert one[: found.offset] == other[: found.offset]
    assert one[found.offset : found.offset + 1] != other[found.offset : found.offset + 1]
    assert causes_of(one, other)
