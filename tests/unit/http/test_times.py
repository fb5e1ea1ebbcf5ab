"""`since` and `until` as values: every form the published clients send, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.domain.errors import InvalidFieldError
from contree.http.times import EPOCH, since_of, until_of

NOW = datetime(2026, 1, 2, 12, 0, 7, 123456, tzinfo=UTC)


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(weeks=1)),
        ("0s", NOW),
        ("999999999999w", EPOCH),
        ("1732310000", datetime(2024, 11, 22, 21, 13, 20, tzinfo=UTC)),
        ("1732310000.25", datetime(2024, 11, 22, 21, 13, 20, 250000, tzinfo=UTC)),
        ("2025-01-01T12:00:00+02:00", datetime(2025, 1, 1, 10, tzinfo=UTC)),
        ("2025-01-01T12:00:00 02:00", datetime(2025, 1, 1, 10, tzinfo=UTC)),
        ("2025-01-01T12:00:00.5Z", datetime(2025, 1, 1, 12, 0, 0, 500000, tzinfo=UTC)),
        ("2025-01-01T12:00:00-05:30", datetime(2025, 1, 1, 17, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_every_form(text: str, expected: datetime) -> None:
    assert since_of(text, now=NOW) == expected
    assert until_of(text, now=NOW) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "yesterday",
        "-5m",
        "5",
        "1.5h",
        "5y",
        "1e3",
        "\uff19m",
        "2025-13-01",
        "0x10",
        "nan",
        "2025-01-01T25:00:00Z",
        "999999999999",
        "\x00",
        "2025-01-01T00:00:00+99:00",
        "1" * 400,
    ],
)
def test_what_is_no_time_is_refused_naming_the_parameter(text: str) -> None:
    if text == "5":  # five seconds after the epoch: legal, if unhelpful
        assert since_of(text, now=NOW) == EPOCH + timedelta(seconds=5)
        return
    with pytest.raises(InvalidFieldError, match=r"^since: "):
        since_of(text, now=NOW)
    with pytest.raises(InvalidFieldError, match=r"^until: "):
        until_of(text, now=NOW)


@given(st.text(max_size=80))
def test_any_text_is_a_time_or_a_refusal(text: str) -> None:
    try:
        moment = since_of(text, now=NOW)
    except InvalidFieldError:
        return
    assert moment is not None
    assert moment.utcoffset() == timedelta(0)


def test_no_parameter_is_no_bound() -> None:
    assert since_of(None, now=NOW) is None
    assert until_of(None, now=NOW) is None


@pytest.mark.usefixtures("in_new_york")
def test_a_time_without_a_zone_is_the_servers_local_time() -> None:
    expected = datetime(2025, 7, 1, 16, tzinfo=UTC)
    assert since_of("2025-07-01T12:00:00", now=NOW) == expected
    assert until_of("2025-07-01T12:00:00", now=NOW) == expected


@given(
    offset=st.integers(min_value=-12 * 4, max_value=14 * 4),
    skew_s=st.integers(min_value=-50, max_value=50),
)
def test_the_wall_clock_of_a_client_in_any_zone_means_now(offset: int, skew_s: float) -> None:
    zone = timezone(timedelta(minutes=15 * offset))
    theirs = (NOW + timedelta(seconds=skew_s)).astimezone(zone).replace(tzinfo=None)
    assert until_of(theirs.isoformat(), now=NOW) is None


@pytest.mark.parametrize(
    "text", ["2026-01-02T10:50:00.5", "2026-01-02T11:00:00", "2025-12-24T12:00:07.1", "2026-01-02"]
)
def test_a_time_without_a_zone_that_is_nobodys_now_is_a_bound(text: str) -> None:
    assert until_of(text, now=NOW) is not None
