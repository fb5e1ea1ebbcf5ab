"""Ids as people type them: whole, or the beginning of one, as Git takes its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from contree.domain.errors import InvalidFieldError, NotFoundError

DIGITS_MIN, DIGITS = 4, 32
BEGINNING = re.compile(r"[0-9a-f]{4,32}", re.ASCII)
NAMED_MAX = 5
"""So many candidates are named when a beginning is that of several."""


class IdKind(StrEnum):
    """What has an id that people type."""

    IMAGE = "image"
    OPERATION = "operation"
    TOKEN = "token"  # noqa: S105 - a word


class KnownIds(Protocol):
    """Ids that were given out, in whatever project."""

    async def between(self, kind: IdKind, low: UUID, high: UUID, *, limit: int) -> Sequence[UUID]:
        """Return the first `limit` ids of a kind from `low` to `high`, both inclusive, in order."""
        ...


@dataclass(frozen=True, slots=True)
class ShortId:
    """What was typed as `field`: an id is meant from `low` to `high`."""

    field: str
    text: str
    low: UUID
    high: UUID

    async def whole(self, kind: IdKind, known: KnownIds) -> UUID:
        """Return the id that is meant; a whole one is not looked up.

        Raises NotFoundError, and InvalidFieldError naming the candidates where it is not unique.
        """
        if self.low == self.high:
            return self.low
        found = await known.between(kind, self.low, self.high, limit=NAMED_MAX + 1)
        if not found:
            raise NotFoundError(kind.value, self.text)
        if len(found) > 1:
            more = ", ..." if len(found) > NAMED_MAX else ""
            raise InvalidFieldError(
                self.field,
                f"'{self.text}' is the beginning of several: "
                f"{', '.join(map(str, found[:NAMED_MAX]))}{more}",
            )
        return found[0]


def parse_short_id(text: str, *, field: str) -> ShortId:
    """Return a UUID or its first four or more digits. Raises InvalidFieldError."""
    digits = text.replace("-", "").lower()
    if not BEGINNING.fullmatch(digits):
        raise InvalidFieldError(
            field, f"'{text}' is not a UUID, nor the first {DIGITS_MIN} or more digits of one"
        )
    return ShortId(field, text, UUID(digits.ljust(DIGITS, "0")), UUID(digits.ljust(DIGITS, "f")))
