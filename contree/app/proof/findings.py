"""What is wrong with a log, in words."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from contree.domain.log_row import aggregate_in, position_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong; `position` and `aggregate_id` when it is about a row."""

    text: str
    position: int | None = None
    aggregate_id: UUID | None = None

    def __str__(self) -> str:
        if self.position is None:
            return self.text
        return f"position {self.position}, aggregate {self.aggregate_id}: {self.text}"


def bad_row(row: bytes, text: str) -> Finding:
    """A finding about the row with these bytes."""
    return Finding(text=text, position=position_in(row), aggregate_id=aggregate_in(row))
