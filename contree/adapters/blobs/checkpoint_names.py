"""Names of checkpoints in a store: their size in 20 digits, so that names sort as sizes do."""

from __future__ import annotations

import re

SUFFIX = ".checkpoint"
_NAME = re.compile(r"([0-9]{20})\.checkpoint")


def name_of(size: int) -> str:
    """The file's, or the last part of the key."""
    return f"{size:020d}{SUFFIX}"


def size_in(name: str) -> int | None:
    """The size in a name, None when it is not one of ours."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None
