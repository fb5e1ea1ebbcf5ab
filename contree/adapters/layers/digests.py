"""How layers are named, `sha256:<hex>`, and the digits of it that name files and objects."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from contree.domain.errors import NotFoundError

PREFIX: Final = "sha256:"
_HEX: Final = re.compile("[0-9a-f]{64}")
_REMEMBERED_MAX: Final = 16_384


@lru_cache(_REMEMBERED_MAX)  # asked for each layer of a stack at each read
def hex_of(diff_id: str) -> str:
    """Return the digits of `sha256:<hex>`. Raises NotFoundError: nothing else names a layer."""
    digits = diff_id.removeprefix(PREFIX)
    if diff_id == digits or not _HEX.fullmatch(digits):
        raise NotFoundError("layer", diff_id[:100])
    return digits
