"""A journal as text: one line an entry. What the log's digest covers, and what is packed. Pure."""

from __future__ import annotations

from datetime import datetime

import orjson

from contree.app.journal import JournalEntry, NumberedEntry


def line_of(numbered: NumberedEntry) -> bytes:
    """Return the compact JSON of [number, time, type, spid, data], and a line feed.

    It is the same before an entry is stored and after it is read.
    """
    entry = numbered.entry
    shown = [numbered.number, entry.at, entry.type, entry.spid, entry.data]
    return orjson.dumps(shown, option=orjson.OPT_APPEND_NEWLINE)


def number_of(line: bytes) -> int:
    """Return the number of a line's entry; it costs nothing to pass a line by."""
    return int(line[1 : line.index(b",")])


def entry_of(line: bytes) -> NumberedEntry:
    number, at, type_, spid, data = orjson.loads(line)
    entry = JournalEntry(at=datetime.fromisoformat(at), type=type_, spid=spid, data=data)
    return NumberedEntry(number=number, entry=entry)
