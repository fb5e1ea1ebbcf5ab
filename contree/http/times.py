"""The `since` and `until` of lists: every form that a published client sends, to one instant.

Refuses what is none of them with InvalidFieldError naming the parameter. A time without a zone is
the server's local time, with one exception that `until_of` explains.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from contree.domain.errors import InvalidFieldError

INTERVAL = re.compile(r"([0-9]{1,12})([smhdw])", re.ASCII)
UNIX_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", re.ASCII)
SPACE_FOR_PLUS = re.compile(r"(.*[T ]\d\d:?\d\d[0-9:.,]*) (\d\d:?\d\d)", re.ASCII)
"""`+` of an offset that was not percent-encoded arrives as a space."""

TEXT_CHARS_MAX = 64
SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Nothing here is older: longer intervals mean this."""

ZONE_OFFSET_MAX = timedelta(hours=14)
ZONE_OFFSET_STEP_S = 15 * 60
CLOCK_SKEW_MAX_S = 60


def since_of(text: str | None, *, now: datetime) -> datetime | None:
    """Return the inclusive lower bound that `since=text` asks for, aware, UTC; None without one.

    Forms: `15m` (that long ago; s, m, h, d, w), Unix seconds, ISO 8601. Raises InvalidFieldError.
    """
    return None if text is None else _parse(text, field="since", now=now)[0]


def until_of(text: str | None, *, now: datetime) -> datetime | None:
    """Return the inclusive upper bound that `until=text` asks for; None without one.

    The published SDK sends its own wall clock without a zone with every list of images, and means
    now. A client west of us would miss what was just made, so a time without a zone that is now in
    some zone on Earth (whole quarters of an hour away, give or take a minute) is no bound. A clock
    has microseconds; a time that somebody typed has none, and is a bound.
    """
    if text is None:
        return None
    moment, naive = _parse(text, field="until", now=now)
    return None if naive is not None and _is_now_somewhere(naive, now) else moment


def moment_of(text: str, *, field: str, now: datetime) -> datetime:
    """Return the instant that a time in any of the forms names. Raises InvalidFieldError."""
    return _parse(text, field=field, now=now)[0]


def _is_now_somewhere(naive: datetime, now: datetime) -> bool:
    distance = naive.replace(tzinfo=UTC) - now
    if not naive.microsecond or abs(distance) > ZONE_OFFSET_MAX + timedelta(
        seconds=CLOCK_SKEW_MAX_S
    ):
        return False
    over = distance.total_seconds() % ZONE_OFFSET_STEP_S
    return min(over, ZONE_OFFSET_STEP_S - over) <= CLOCK_SKEW_MAX_S


def _parse(text: str, *, field: str, now: datetime) -> tuple[datetime, datetime | None]:
    """Return the instant and, when the text had no zone, the time as it was written."""
    if match := INTERVAL.fullmatch(text):
        seconds = int(match[1]) * SECONDS_OF[match[2]]
        age_s = (now - EPOCH).total_seconds()
        return (EPOCH if seconds >= age_s else now - timedelta(seconds=seconds)), None
    try:
        if UNIX_SECONDS.fullmatch(text):
            return EPOCH + timedelta(seconds=float(text)), None
        if not text or len(text) > TEXT_CHARS_MAX or not text.isascii():
            raise ValueError(text)
        if spaced := SPACE_FOR_PLUS.fullmatch(text):
            text = f"{spaced[1]}+{spaced[2]}"
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            return moment.astimezone(UTC), moment
        return moment.astimezone(UTC), None
    except (ValueError, OverflowError) as error:
        raise InvalidFieldError(
            field,
            "use an interval such as 15m, 2h or 3d, Unix seconds, or an ISO 8601 time such as "
            "2025-01-01T12:00:00+00:00",
        ) from error
