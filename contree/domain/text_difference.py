"""Where two byte streams of the same command part, and whether clock or randomness explain it.

A difference is explained when both texts become equal once everything that has the form of a time,
and then everything that has the form of a random name, is taken out of them. That is a judgement by
form: it names likely causes of a difference, and never hides one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

EXCERPT_BYTES = 200
"""How much of a line is shown on either side of a difference."""

COMPARED_BYTES_MAX = 4 * 1024**2
"""Causes are looked for in at most so much of each text; beyond it a difference is unexplained."""

# Every repetition is bounded or anchored: the texts are a guest's.
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?"
_ZONE = r" ?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})"
_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]{0,6},? {1,2}"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_DATE = rf"{_MONTH} {{1,2}}\d{{1,4}}(?:,? \d{{4}})?"
_CLOCK_FORMS = (
    rf"\b\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_TIME})?(?:{_ZONE})?",
    rf"(?:{_DAY})?(?:\d{{1,2}} )?{_DATE}(?: {_TIME})?(?:{_ZONE})?(?: \d{{4}})?",
    r"\b\d{1,2}/\d{1,2}/\d{2,4}\b",
    rf"\b{_TIME}(?:{_ZONE})?",
    r"\b1[6-9]\d{8}(?:\.\d{1,9}|\d{3}|\d{6}|\d{9})?\b",  # seconds to nanoseconds since 1970
    r"\b\d{1,12}(?:\.\d{1,9})? ?(?:ns|us|ms|s|sec|secs|seconds?|min|minutes?)\b",
    r"\b\d{1,6}m ?\d{1,2}(?:\.\d{1,9})?s\b",  # as time(1) has it
)
_RANDOM_FORMS = (
    r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b",
    r"\b0x[0-9a-fA-F]{6,16}\b",  # addresses
    r"(?<=tmp)[._-]?[A-Za-z0-9_]{6,12}\b",  # names of temporary files
    # Keys in hex or base64. Not what has a digest's form: its difference means other content.
    r"(?<![A-Za-z0-9+/_=-])(?![0-9a-fA-F]{32,}\b)(?=[A-Za-z+/_-]*\d)[A-Za-z0-9+/_-]{16,}={0,2}",
    # One key of base64 in forty has no digit: what it is padded to tells it from a long word.
    r"(?<![A-Za-z0-9+/_=-])(?:[A-Za-z+/]{4}){4,}(?:[A-Za-z+/]{2}==|[A-Za-z+/]{3}=)(?![A-Za-z0-9+/=])",
)
_CLOCK = re.compile("|".join(_CLOCK_FORMS).encode())
_RANDOM = re.compile("|".join(_RANDOM_FORMS).encode())


class Cause(StrEnum):
    """What explains a difference between a run and its replay."""

    CLOCK = "clock"
    RANDOMNESS = "randomness"
    NETWORK = "network"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDifference:
    """The first place where two texts part.

    offset    bytes that are equal before it
    line      number of the line it is in, from 1
    original  the line there, at most EXCERPT_BYTES on either side; likewise `replay`
    """

    offset: int
    line: int
    original: bytes
    replay: bytes


def first_difference(original: bytes, replay: bytes) -> TextDifference | None:
    """Return the first difference, None when there is none."""
    if original == replay:
        return None
    offset = _common_bytes(original, replay)
    return TextDifference(
        offset=offset,
        line=original.count(b"\n", 0, offset) + 1,
        original=_line_at(original, offset),
        replay=_line_at(replay, offset),
    )


def causes_of(original: bytes, replay: bytes) -> frozenset[Cause]:
    """Return what explains that the texts differ; empty when they do not."""
    if original == replay:
        return frozenset()
    if max(len(original), len(replay)) > COMPARED_BYTES_MAX:
        return frozenset({Cause.UNEXPLAINED})
    without_times = _CLOCK.sub(b"<time>", original), _CLOCK.sub(b"<time>", replay)
    if without_times[0] == without_times[1]:
        return frozenset({Cause.CLOCK})
    if _RANDOM.sub(b"<random>", original) == _RANDOM.sub(b"<random>", replay):
        return frozenset({Cause.RANDOMNESS})
    if _RANDOM.sub(b"<random>", without_times[0]) == _RANDOM.sub(b"<random>", without_times[1]):
        return frozenset({Cause.CLOCK, Cause.RANDOMNESS})
    return frozenset({Cause.UNEXPLAINED})


def are_explained(causes: Iterable[Cause]) -> bool:
    return Cause.UNEXPLAINED not in causes


def _common_bytes(one: bytes, other: bytes) -> int:
    """Return how many bytes both begin with: by halves, as comparing slices is fast."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _line_at(text: bytes, offset: int) -> bytes:
    begin = max(text.rfind(b"\n", 0, offset) + 1, offset - EXCERPT_BYTES)
    end = text.find(b"\n", offset)
    return text[begin : min(len(text) if end < 0 else end, offset + EXCERPT_BYTES)]
