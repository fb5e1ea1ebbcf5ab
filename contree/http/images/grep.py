"""`/inspect/{image}/grep`: search the contents of an image's files, without running anything."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from contree.app.images.image_search import CaseMode, FoundLine, SearchQuery
from contree.domain.errors import InvalidFieldError
from contree.http.answers import json_answer
from contree.http.images.inspect import readable_layers
from contree.http.query import choice_of, guest_paths_of, number_of
from contree.http.wiring import SERVICES

REPEATED_MAX = 16
"""Patterns, paths and globs: how many of each one request may have."""

PATTERN_CHARS_MAX = 1024
"""Of one pattern or glob."""

COUNT_MAX = 10_000
TOTAL_DEFAULT = 1000
CONTEXT_LINES_MAX = 50


async def grep(request: web.Request) -> web.Response:
    """The lines that match, in order, with as much context as is asked for."""
    layers = await readable_layers(request)
    paths = guest_paths_of(request, default="/", count_max=REPEATED_MAX)
    query = SearchQuery(
        patterns=_patterns(request),
        paths=[path for _, path in paths],
        globs=_texts(request, "glob"),
        max_count=_max_count(request),
        max_total=number_of(request, "max_total", default=TOTAL_DEFAULT, low=1, high=COUNT_MAX),
        case=choice_of(request, "case", CaseMode) or CaseMode.SENSITIVE,
        before=number_of(request, "before", default=0, low=0, high=CONTEXT_LINES_MAX),
        after=number_of(request, "after", default=0, low=0, high=CONTEXT_LINES_MAX),
    )
    result = await request.app[SERVICES].image_search.search(layers, query)
    return json_answer(
        request,
        {
            "path": paths[0][0],
            "patterns": query.patterns,
            "matches": [_line_value(line) for line in result.lines],
            "truncated": result.truncated,
        },
    )


def _patterns(request: web.Request) -> list[str]:
    patterns = _texts(request, "pattern")
    if not patterns:
        raise InvalidFieldError("pattern", "is missing, give a regular expression")
    return patterns


def _max_count(request: web.Request) -> int | None:
    if "max_count" not in request.query:
        return None
    return number_of(request, "max_count", default=COUNT_MAX, low=1, high=COUNT_MAX)


def _texts(request: web.Request, name: str) -> list[str]:
    """Return all values of a parameter. Raises InvalidFieldError past a bound or for a NUL byte."""
    texts = request.query.getall(name, [])
    if len(texts) > REPEATED_MAX:
        raise InvalidFieldError(name, f"is there more than {REPEATED_MAX} times")
    for text in texts:
        if len(text) > PATTERN_CHARS_MAX:
            raise InvalidFieldError(name, f"is longer than {PATTERN_CHARS_MAX} characters")
        if "\0" in text:
            raise InvalidFieldError(name, "has a NUL byte")
    return texts


def _line_value(line: FoundLine) -> dict[str, Any]:
    return {
        "path": line.path,
        "line_number": line.line_number,
        "absolute_offset": line.absolute_offset,
        "line_text": line.line_text,
        "line_bytes": line.line_bytes,
        "submatches": [
            {"text": one.text, "start": one.start, "end": one.end} for one in line.submatches
        ],
        "type": "match" if line.is_match else "context",
    }
