"""Paths inside an image: absolute, normalised, never above the root."""

from __future__ import annotations

import posixpath

from contree.domain.errors import InvalidFieldError

PATH_BYTES_MAX = 4096
"""PATH_MAX of Linux, limits.h."""


def parse_guest_path(text: str, *, field: str) -> str:
    """Return `text` normalised (`//` and `.` removed, no trailing slash).

    Raises InvalidFieldError naming `field` when it is empty, relative, too long, has a NUL byte or
    a `..` component.
    """
    if not text.startswith("/"):
        raise InvalidFieldError(field, f"'{text}' is not absolute, begin it with '/'")
    if len(text.encode("utf-8", "surrogateescape")) >= PATH_BYTES_MAX:
        raise InvalidFieldError(field, f"longer than {PATH_BYTES_MAX - 1} bytes")
    if "\0" in text:
        raise InvalidFieldError(field, "has a NUL byte")
    if ".." in text.split("/"):
        raise InvalidFieldError(field, f"'{text}' has a '..' component, give the plain path")
    # normpath keeps a leading double slash, as POSIX allows; we do not.
    return "/" + posixpath.normpath(text).lstrip("/")
