"""What ripgrep found in a chunk of files, as lines of an image: decoded, named, bounded.

Format: `rg --help`, `--json`: for each file with a match a `begin`, then `match` and `context`
messages, then an `end`. Text that is not UTF-8 comes as base64.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from contree.adapters.layers.search.process import Output, OversizedMessage, RipgrepDied
from contree.app.images.image_search import (
    LINE_TEXT_BYTES_MAX,
    FoundLine,
    SearchQuery,
    SearchResult,
    Submatch,
)
from contree.domain.stream_text import cut_at_character

SUBMATCHES_MAX: Final = 1000
"""Matches that are told of one line."""

FOUND_BYTES_MAX: Final = 32 * 1024**2
"""Text of all the lines that one search gives."""

_LINE_OVERHEAD_BYTES: Final = 200
"""What a line costs beside its text, so that a great many empty ones are bounded too."""


class _Text(msgspec.Struct):
    text: str | None = None
    base64: str | None = msgspec.field(default=None, name="bytes")

    def raw(self) -> bytes:
        return b64decode(self.base64) if self.base64 is not None else (self.text or "").encode()


class _Submatch(msgspec.Struct):
    match: _Text
    start: int
    end: int


class _Data(msgspec.Struct):
    path: _Text | None = None
    lines: _Text = msgspec.field(default_factory=_Text)
    line_number: int | None = None
    absolute_offset: int = 0
    submatches: list[_Submatch] = msgspec.field(default_factory=list)


class _Message(msgspec.Struct):
    type: str
    data: _Data


_decoder: Final = msgspec.json.Decoder(_Message)


class Found:
    """Collects the lines of one chunk.

    files    the names that ripgrep was given, in order; one may be there twice (hard links)
    shown    gives what the file at a position is called for the caller

    `is_partial` says that something of the chunk is missing, `is_finished` that it was read.
    """

    def __init__(
        self, query: SearchQuery, files: Sequence[bytes], shown: Callable[[int], str]
    ) -> None:
        self.lines: list[FoundLine] = []
        self.match_count = 0
        self.text_bytes = 0
        self.is_partial = False
        self.is_finished = False
        self._query = query
        self.files = files
        self._shown = shown
        self._position = -1
        self._path = ""
        self._count_here = 0

    @property
    def is_enough(self) -> bool:
        """One match more than can be given: it shows that something is left out."""
        return self.match_count > self._query.max_total or self.text_bytes > FOUND_BYTES_MAX

    def take(self, output: Output) -> None:
        if output is OversizedMessage or output is RipgrepDied:
            self.is_partial = True
            return
        assert isinstance(output, bytes)
        message = _decoder.decode(output)
        if message.type == "begin":
            self._begin(message.data)
        elif message.type in ("match", "context"):
            self._line(message.data, is_match=message.type == "match")

    def _begin(self, data: _Data) -> None:
        assert data.path is not None
        self._position = self.files.index(data.path.raw(), self._position + 1)
        self._path = self._shown(self._position)
        self._count_here = 0

    def _line(self, data: _Data, *, is_match: bool) -> None:
        limit = self._query.max_count
        if is_match and limit is not None and self._count_here >= limit:
            # ripgrep tells lines after the last one that counts as what they are, matches too.
            is_match = False
        raw = data.lines.raw()
        line = FoundLine(
            path=self._path,
            line_number=data.line_number or 0,
            absolute_offset=data.absolute_offset,
            line_text=_shown_text(raw),
            line_bytes=len(raw),
            is_match=is_match,
            submatches=_submatches(data) if is_match else (),
        )
        self.lines.append(line)
        self.match_count += is_match
        self._count_here += is_match
        self.text_bytes += _cost_bytes(line)


def _submatches(data: _Data) -> list[Submatch]:
    return [
        Submatch(text=_shown_text(one.match.raw()), start=one.start, end=one.end)
        for one in data.submatches[:SUBMATCHES_MAX]
    ]


def _shown_text(raw: bytes) -> str:
    if len(raw) > LINE_TEXT_BYTES_MAX:
        raw = cut_at_character(raw[:LINE_TEXT_BYTES_MAX])
    text = raw.decode("utf-8", "replace")
    # What stands for a bad byte takes three.
    return cut_at_character(text.encode()[:LINE_TEXT_BYTES_MAX]).decode()


def _cost_bytes(line: FoundLine) -> int:
    return (
        _LINE_OVERHEAD_BYTES
        + len(line.path)
        + len(line.line_text)
        + sum(_LINE_OVERHEAD_BYTES // 2 + len(one.text) for one in line.submatches)
    )


def combined(chunks: Iterable[Found], query: SearchQuery, *, is_partial: bool) -> SearchResult:
    """Put the chunks' lines together, cut where the query or FOUND_BYTES_MAX ends them."""
    lines: list[FoundLine] = []
    match_count = text_bytes = 0
    last_match: FoundLine | None = None
    for found in chunks:
        is_partial = is_partial or found.is_partial or not found.is_finished
        for line in found.lines:
            text_bytes += _cost_bytes(line)
            match_count += line.is_match
            if match_count > query.max_total or text_bytes > FOUND_BYTES_MAX:
                kept = _without_context_of_next(lines, last_match, query.after)
                return SearchResult(lines=kept, truncated=True)
            if line.is_match:
                last_match = line
            lines.append(line)
    return SearchResult(lines=lines, truncated=is_partial)


def _without_context_of_next(
    lines: list[FoundLine], last_match: FoundLine | None, after: int
) -> list[FoundLine]:
    """Drop the lines before a match that is not given itself."""
    while lines and not lines[-1].is_match:
        line = lines[-1]
        belongs = (
            last_match is not None
            and line.path == last_match.path
            and line.line_number <= last_match.line_number + after
        )
        if belongs:
            break
        lines.pop()
    return lines
