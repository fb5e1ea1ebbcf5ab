"""Searching with Python's `re`, over any ImageFiles: a naive second implementation.

Globs are matched against base names only, alternatives not at all: tests of more than that are the
real one's. tests/contracts/test_image_search.py holds both to the Protocol.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import AsyncIterator, Sequence
from fnmatch import fnmatchcase

from contree.app.images.image_search import (
    LINE_TEXT_BYTES_MAX,
    CaseMode,
    FoundLine,
    SearchQuery,
    SearchResult,
    Submatch,
)
from contree.app.images.layer_store import EntryType, ImageFiles
from contree.domain.errors import InvalidFieldError


class FakeImageSearch:
    """Implements ImageSearch; `queries` are those it was asked."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self.queries: list[SearchQuery] = []

    async def search(self, layers: Sequence[str], query: SearchQuery) -> SearchResult:
        self.queries.append(query)
        pattern = compiled(query)
        tops = [await self._files.stat(layers, path) for path in query.paths]
        found: list[FoundLine] = []
        seen: set[str] = set()
        left = query.max_total
        for asked, top in zip(query.paths, tops, strict=True):
            async for real, shown in self._walk(layers, top.path, asked):
                chosen = top.type is not EntryType.DIRECTORY or taken(shown, query.globs)
                if shown in seen or not chosen:
                    continue
                seen.add(shown)
                content = await self._files.open(layers, real)
                data = b"".join([chunk async for chunk in content.chunks])
                lines, more = lines_of(shown, data, pattern, query, left)
                found += lines
                left -= sum(line.is_match for line in lines)
                if more:
                    return SearchResult(lines=found, truncated=True)
        return SearchResult(lines=found, truncated=False)

    async def _walk(
        self, layers: Sequence[str], real: str, shown: str
    ) -> AsyncIterator[tuple[str, str]]:
        entry = await self._files.stat(layers, real, follow=False)
        if entry.type is EntryType.REGULAR:
            yield real, shown
        if entry.type is EntryType.DIRECTORY:
            for child in await self._files.list(layers, real):
                inside = self._walk(
                    layers, posixpath.join(real, child.name), posixpath.join(shown, child.name)
                )
                async for pair in inside:
                    yield pair


def compiled(query: SearchQuery) -> re.Pattern[bytes]:
    joined = "|".join(f"(?:{pattern})" for pattern in query.patterns)
    smart = query.case is CaseMode.SMART and joined == joined.lower()
    ignore_case = smart or query.case is CaseMode.INSENSITIVE
    try:
        return re.compile(joined.encode(), re.IGNORECASE if ignore_case else re.NOFLAG)
    except re.error as error:
        raise InvalidFieldError("pattern", str(error)) from error


def taken(shown: str, globs: Sequence[str]) -> bool:
    name = posixpath.basename(shown)
    for glob in reversed(globs):
        if fnmatchcase(name, glob.removeprefix("!")):
            return not glob.startswith("!")
    return all(glob.startswith("!") for glob in globs)


def lines_of(
    path: str, data: bytes, pattern: re.Pattern[bytes], query: SearchQuery, left: int
) -> tuple[list[FoundLine], bool]:
    """The lines of one file, and whether it has more matches than `left`."""
    if b"\0" in data:
        return [], False
    lines = data.splitlines(keepends=True)
    hits = [number for number, line in enumerate(lines) if pattern.search(line.rstrip(b"\n"))]
    counted = hits if query.max_count is None else hits[: query.max_count]
    kept = counted[:left]
    shown = {
        number
        for hit in kept
        for number in range(hit - query.before, hit + query.after + 1)
        if 0 <= number < len(lines)
    }
    found = [
        one_line(path, lines, number, pattern if number in kept else None)
        for number in sorted(shown)
    ]
    return found, len(counted) > left


def one_line(
    path: str, lines: list[bytes], number: int, pattern: re.Pattern[bytes] | None
) -> FoundLine:
    line = lines[number]
    matches = pattern.finditer(line.rstrip(b"\n")) if pattern else ()
    return FoundLine(
        path=path,
        line_number=number + 1,
        absolute_offset=sum(map(len, lines[:number])),
        line_text=shown_text(line),
        line_bytes=len(line),
        is_match=pattern is not None,
        submatches=[
            Submatch(text=m[0].decode("utf-8", "replace"), start=m.start(), end=m.end())
            for m in matches
        ],
    )


def shown_text(line: bytes) -> str:
    text = line[:LINE_TEXT_BYTES_MAX].decode("utf-8", "replace")
    return text.encode()[:LINE_TEXT_BYTES_MAX].decode("utf-8", "ignore")
