"""Times of files as ISO 8601 text: a tar may name any second, far outside datetime's years."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_CYCLE_DAYS: Final = 146_097
"""Of 400 years, after which the calendar repeats itself."""

_CYCLE_S: Final = _CYCLE_DAYS * 86_400
_CYCLE_YEARS: Final = 400


def iso_time(seconds: int) -> str:
    """Return whole seconds since 1970 as UTC with nanoseconds; years over four digits signed."""
    cycles, rest = divmod(seconds, _CYCLE_S)
    moment = datetime.fromtimestamp(rest, UTC)
    year = moment.year + cycles * _CYCLE_YEARS
    shown = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+07d}"  # noqa: PLR2004 - four digits
    return f"{shown}-{moment:%m-%dT%H:%M:%S}.000000000Z"
