"""What waits for the journal: joined where it belongs together, never changed in order or bytes."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from contree.app import journal_pieces
from contree.app.journal import JournalEntry
from contree.app.journal_pieces import PIECE_BYTES_MAX, Piece, joined
from tests.fakes.clock import EPOCH

MAX = 8
ENTRY = JournalEntry(at=EPOCH, type="exit", spid=1, data={})


def piece(data: bytes, type_: str = "stdout", spid: int = 1) -> Piece:
    return Piece(at=EPOCH, type=type_, spid=spid, data=data)


PIECES = st.builds(
    piece,
    st.one_of(st.binary(max_size=20), st.text(max_size=10).map(str.encode)),
    st.sampled_from(["stdout", "stderr", "stdin"]),
    st.sampled_from([1, 2]),
)


def runs(waiting: list[JournalEntry | Piece]) -> list[tuple[object, bytes]]:
    """Return the bytes of each unbroken run of one stream; entries stand for themselves."""

    def key(what: JournalEntry | Piece) -> object:
        return what if isinstance(what, JournalEntry) else (what.type, what.spid)

    filled = [what for what in waiting if isinstance(what, JournalEntry) or what.data]
    return [
        (of, b"".join(what.data for what in run if isinstance(what, Piece)))
        for of, run in groupby(filled, key=key)
    ]


@given(st.lists(st.one_of(PIECES, st.just(ENTRY)), max_size=12))
def test_order_and_bytes_stay_and_pieces_are_bounded(waiting: list[JournalEntry | Piece]) -> None:
    bounded = journal_pieces.PIECE_BYTES_MAX
    try:
        journal_pieces.PIECE_BYTES_MAX = MAX
        shown = list(joined(waiting))
    finally:
        journal_pieces.PIECE_BYTES_MAX = bounded
    assert runs(shown) == runs(waiting)
    assert all(0 < len(what.data) <= MAX for what in shown if isinstance(what, Piece))


def test_what_came_byte_by_byte_is_one_entry() -> None:
    assert list(joined([piece(b"x")] * 5000)) == [piece(b"x" * 5000)]


def test_a_cut_spares_characters() -> None:
    text = "\u00fc\u20ac\U0001f600" * 10_000
    data = text.encode()
    pieces = [piece(data[at : at + 4096]) for at in range(0, len(data), 4096)]
    shown = [what for what in joined(pieces) if isinstance(what, Piece)]
    assert len(shown) > 1
    assert "".join(what.data.decode() for what in shown) == text
    assert max(len(what.data) for what in shown) <= PIECE_BYTES_MAX


def test_each_has_the_time_of_its_first_byte() -> None:
    later = Piece(at=EPOCH.replace(year=2030), type="stdout", spid=1, data=b"b")
    [shown] = joined([piece(b"a"), later])
    assert shown == piece(b"ab")
