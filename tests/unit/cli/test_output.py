"""Tables, records and JSON, made of the same values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from contree.cli.output import show_list, show_record

ROWS = [
    {"id": UUID(int=1), "name": "a\x1b[31m", "at": datetime(2026, 1, 2, 3, 4, 5, 6, UTC)},
    {"id": UUID(int=2), "name": None, "at": None},
]
COLUMNS = ("id", "name", "at")


def test_a_table_has_a_header_and_nothing_raw(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(COLUMNS, ROWS, as_json=False)
    assert capsys.readouterr().out == (
        "ID                                    NAME       AT\n"
        "00000000-0000-0000-0000-000000000001  a\\x1b[31m  2026-01-02 03:04:05Z\n"
        "00000000-0000-0000-0000-000000000002  -          -\n"
    )


def test_a_list_is_an_array_of_what_it_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(COLUMNS, ROWS, as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {
            "id": str(UUID(int=1)),
            "name": "a\x1b[31m",
            "at": "2026-01-02T03:04:05.000006+00:00",
        },
        {"id": str(UUID(int=2)), "name": None, "at": None},
    ]


def test_a_record_is_a_line_for_each_field_or_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"ready": True, "workers_with_work": ["a", "b"], "guests": []}
    show_record(record, as_json=False)
    assert capsys.readouterr().out == (
        "ready              yes\nworkers with work  a,b\nguests             -\n"
    )
    show_record(record, as_json=True)
    assert json.loads(capsys.readouterr().out) == record
