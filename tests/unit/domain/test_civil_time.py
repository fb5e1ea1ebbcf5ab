"""Times of files as text, in and out of the years that datetime knows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.domain.civil_time import iso_time


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)))  # noqa: DTZ001 - made UTC below
def test_times_of_our_calendar_are_as_datetime_has_them(moment: datetime) -> None:
    whole = moment.replace(microsecond=0, tzinfo=UTC)
    wanted = whole.isoformat().replace("+00:00", ".000000000Z")
    assert iso_time(int(whole.timestamp())) == wanted


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (253_402_300_800, "+010000-01-01T00:00:00.000000000Z"),
        (-62_167_219_201, "-000001-12-31T23:59:59.000000000Z"),
        (-(2**63), "-292277022657-01-27T08:29:52.000000000Z"),
        (2**63 - 1, "+292277026596-12-04T15:30:07.000000000Z"),
    ],
)
def test_any_second_has_a_text(seconds: int, shown: str) -> None:
    assert iso_time(seconds) == shown
