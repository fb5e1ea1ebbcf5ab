"""Query and path parameters to values; a refusal names the parameter and what would be right."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from urllib.parse import unquote_to_bytes
from uuid import UUID

from aiohttp import web

from contree.app.reads import Page
from contree.domain.errors import InvalidFieldError
from contree.domain.guest_path import parse_guest_path
from contree.http.times import since_of, until_of
from contree.http.wiring import SERVICES

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
OFFSET_MAX = 2**31 - 1
SPID_MAX = 2**31 - 1
WHOLE_NUMBER = re.compile(r"(?!-0)-?[0-9]{1,18}", re.ASCII)
UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
TAG_PREFIX_TEXT = re.compile(r"[A-Za-z0-9_:/.-]{0,256}", re.ASCII)
"""What the beginning of a tag can be made of."""

E = TypeVar("E", bound=StrEnum)


def text_of(request: web.Request, name: str) -> str | None:
    """Return the first value of a parameter. Raises InvalidFieldError for a NUL byte in it."""
    text = request.query.get(name)
    if text is not None and "\0" in text:
        raise InvalidFieldError(name, "has a NUL byte")
    return text


def whole_number(text: str, *, field: str, low: int, high: int) -> int:
    """Return the decimal number `text`, within `low`..`high`. Raises InvalidFieldError."""
    if not WHOLE_NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise InvalidFieldError(field, f"'{text[:40]}' is not a whole number from {low} to {high}")
    return int(text)


def number_of(request: web.Request, name: str, *, default: int, low: int, high: int) -> int:
    """Return a whole number of the query, or `default` when it is absent."""
    text = request.query.get(name)
    return default if text is None else whole_number(text, field=name, low=low, high=high)


def flag_of(request: web.Request, name: str) -> bool:
    """Absent and `0` are off; any other value, also none (`?follow`), is on."""
    return request.query.get(name, "0") != "0"


def parse_uuid(text: str, *, field: str) -> UUID:
    """Return the UUID written as 8-4-4-4-12 hex digits. Raises InvalidFieldError."""
    if not UUID_TEXT.fullmatch(text):
        raise InvalidFieldError(field, f"'{text[:64]}' is not a UUID")
    return UUID(text)


def uuid_in_path(request: web.Request, name: str) -> UUID:
    return parse_uuid(request.match_info[name], field=name)


def choice_of(request: web.Request, name: str, choices: type[E]) -> E | None:
    """Return the member that the parameter names, None when it is absent."""
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return choices(text)
    except ValueError as error:
        allowed = ", ".join(choice.value for choice in choices)
        raise InvalidFieldError(name, f"'{text[:40]}' is none of {allowed}") from error


def page_of(request: web.Request, *, now: datetime | None = None) -> Page:
    """Return which part of a list is asked for: limit, offset, since, until (seen from `now`)."""
    now = request.app[SERVICES].clock.now() if now is None else now
    return Page(
        limit=number_of(request, "limit", default=LIMIT_DEFAULT, low=1, high=LIMIT_MAX),
        offset=number_of(request, "offset", default=0, low=0, high=OFFSET_MAX),
        since=since_of(request.query.get("since"), now=now),
        until=until_of(request.query.get("until"), now=now),
    )


def guest_path_of(request: web.Request, name: str = "path") -> tuple[str, str]:
    """Return the path parameter as it was asked for, and absolute and normalised.

    A relative path starts at the root of the image.
    Raises InvalidFieldError when it is absent, empty or breaks `parse_guest_path`.
    """
    asked = _path_texts(request, name)
    if not asked:
        raise InvalidFieldError(name, "is missing, name a path inside the image")
    return asked[0], _guest_path(asked[0], name)


def guest_paths_of(
    request: web.Request, name: str = "path", *, default: str, count_max: int
) -> list[tuple[str, str]]:
    """Return all path parameters, as `guest_path_of` does each; `default` when there is none."""
    asked = _path_texts(request, name) or [default]
    if len(asked) > count_max:
        raise InvalidFieldError(name, f"is there more than {count_max} times")
    return [(text, _guest_path(text, name)) for text in asked]


def _path_texts(request: web.Request, name: str) -> list[str]:
    """Return the values of a parameter.

    Percent-encoded bytes that are not UTF-8 are file names too (surrogateescape), which
    `request.query` cannot carry.
    """
    pairs = (pair.partition("=") for pair in request.rel_url.raw_query_string.split("&"))
    return [
        unquote_to_bytes(value.replace("+", " ")).decode("utf-8", "surrogateescape")
        for key, _, value in pairs
        if key == name
    ]


def _guest_path(asked: str, name: str) -> str:
    if not asked:
        raise InvalidFieldError(name, "is empty, name a path inside the image")
    absolute = asked if asked.startswith("/") else f"/{asked}"
    return parse_guest_path(absolute, field=name)
