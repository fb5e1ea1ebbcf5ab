"""How commands show what they found: tables and records for people, JSON for programs.

A list is a JSON array of objects, one thing is one object; ids, times (ISO 8601 with offset, to the
microsecond) and unknown values (null) are as the API has them. Keys are added, never renamed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from contree.http.json_text import json_bytes

GAP = "  "
NONE = "-"


def add_json(parser: argparse.ArgumentParser, *, what: str = "one JSON document") -> None:
    parser.add_argument("--json", action="store_true", help=what)


def show_json(value: Any) -> None:
    """Write one document, on a line of its own."""
    sys.stdout.write(json_bytes(value).decode() + "\n")
    sys.stdout.flush()


def show_list(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Write a table with a header, in which every row has all `columns`, and perhaps more."""
    found = list(rows)
    if as_json:
        show_json(found)
        return
    cells = [[name.upper().replace("_", " ") for name in columns]]
    cells += [[shown(row[name]) for name in columns] for row in found]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(GAP.join(padded).rstrip() + "\n")


def show_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Write one thing: a line for each of its fields."""
    if as_json:
        show_json(record)
        return
    names = {name: name.replace("_", " ") for name in record}
    width = max(map(len, names.values()))
    for name, value in record.items():
        sys.stdout.write(f"{names[name].ljust(width)}{GAP}{shown(value)}\n")


def shown(value: Any) -> str:
    """A value for people. What a guest or a registry says never reaches a terminal raw."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(map(shown, value)) or NONE
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(value))


def moment(at: datetime) -> str:
    """A time to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
