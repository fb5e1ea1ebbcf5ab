"""Checks on what is asked for, the same for every content store."""

from __future__ import annotations

import re

from contree.domain.errors import LimitExceededError, NotFoundError

_HEX = re.compile("[0-9a-f]{64}")


def checked(sha256: str) -> str:
    """Return a well-formed digest; nothing is stored under any other. Raises NotFoundError.

    It also keeps a name from reaching another place of the store, like `../x`.
    """
    if not _HEX.fullmatch(sha256):
        raise NotFoundError("content", sha256[:100])
    return sha256


def too_large(bytes_max: int) -> LimitExceededError:
    return LimitExceededError("content size", f"over {bytes_max} bytes, send less")
