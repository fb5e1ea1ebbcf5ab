"""Pieces of streams on their way into the journal: those that wait together become one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from contree.app.journal import JournalEntry
from contree.domain.stream_text import cut_at_character

PIECE_BYTES_MAX: Final = 32 * 1024
"""Of a stream's bytes, in one entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a stream of one process; `type` is stdin, stdout or stderr."""

    at: datetime
    type: str
    spid: int
    data: bytes


def joined(waiting: Iterable[JournalEntry | Piece]) -> Iterator[JournalEntry | Piece]:
    """Yield what waits, in its order, with neighbours of one stream joined and cut again.

    A cut comes after at most PIECE_BYTES_MAX, and not inside of a UTF-8 character. Each piece has
    the time of its first byte.
    """
    open_: Piece | None = None
    for what in waiting:
        if isinstance(what, JournalEntry):
            if open_ is not None:
                yield open_
                open_ = None
            yield what
            continue
        if open_ is not None and (open_.type, open_.spid) == (what.type, what.spid):
            what = replace(open_, data=open_.data + what.data)
        elif open_ is not None:
            yield open_
        while len(what.data) > PIECE_BYTES_MAX:
            head = cut_at_character(what.data[:PIECE_BYTES_MAX])
            yield replace(what, data=head)
            what = replace(what, data=what.data[len(head) :])
        open_ = what if what.data else None
    if open_ is not None:
        yield open_
