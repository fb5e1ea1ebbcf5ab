"""How changes become statements: pure functions, small and generated inputs."""

from __future__ import annotations

from uuid import UUID

from eventsourcing.persistence import StoredEvent
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.postgres.statement import arranged, runs, statements
from contree.app.projection import Change

CHANGES = st.lists(st.integers(0, 5), max_size=40).map(
    lambda rows: [
        Change(statement="UPDATE t SET a = $1", arguments=(place,), row=("t", row))
        for place, row in enumerate(rows)
    ]
)


@given(changes=CHANGES, round_max=st.integers(1, 6))
def test_rounds_hold_every_change_once_no_row_twice_and_each_row_in_order(
    changes: list[Change], round_max: int
) -> None:
    rounds = arranged(changes, round_max=round_max)
    assert sorted(c.arguments[0] for r in rounds for c in r) == list(range(len(changes)))
    for changes_of_round in rounds:
        rows = [c.row for c in changes_of_round]
        assert len(set(rows)) == len(rows) <= round_max
    for row in {c.row for c in changes}:
        places = [c.arguments[0] for r in rounds for c in r if c.row == row]
        assert places == sorted(places)


READING = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=30).map(
    lambda choices: [
        Change(
            statement=f"INSERT INTO t{kind}",
            arguments=(place,),
            row=("t", place),
            reads=("t", place - back) if back else None,
        )
        for place, (kind, back) in enumerate(choices)
    ]
)


@given(changes=READING, round_max=st.integers(1, 6))
def test_what_a_change_reads_was_written_before(changes: list[Change], round_max: int) -> None:
    """By an earlier statement in an append, by an earlier execution in a rebuild."""
    rounds = arranged(changes, round_max=round_max)
    round_of = {c.row: number for number, one in enumerate(rounds) for c in one}
    order = [arguments[0] for _, rows in runs(changes) for arguments in rows]
    assert sorted(order) == list(range(len(changes)))
    for change in changes:
        if change.reads in round_of:
            assert round_of[change.reads] < round_of[change.row]
            assert order.index(change.reads[1]) < order.index(change.row[1])


def test_one_statement_has_its_placeholders_renumbered() -> None:
    changes = [
        Change(statement="UPDATE t SET a = $2 WHERE b = $1", arguments=("b", "a"), row=("t", 1)),
        Change(statement="DELETE FROM u WHERE c = $1 OR d = $1", arguments=("c",), row=("u", 1)),
    ]
    ((text, arguments),) = statements([], changes)
    assert text.startswith(
        "WITH c0 AS (UPDATE t SET a = $2 WHERE b = $1), "
        "c1 AS (DELETE FROM u WHERE c = $3 OR d = $3) INSERT INTO public.stored_events"
    )
    assert "unnest($4::uuid[], $5::bigint[], $6::text[], $7::bytea[])" in text
    assert arguments == ("b", "a", "c", [], [], [], [])


def test_two_changes_of_one_row_become_two_statements_the_events_in_the_first() -> None:
    change = Change(statement="UPDATE t SET a = $1", arguments=(1,), row=("t", 1))
    (first, _), (second, arguments) = statements([], [change, change])
    assert "stored_events" in first
    assert (second, arguments) == ("UPDATE t SET a = $1", (1,))


def test_events_without_changes_are_a_plain_insert() -> None:
    ((text, _),) = statements([], [])
    assert text.startswith("INSERT INTO public.stored_events")


def test_one_event_goes_by_values() -> None:
    event = StoredEvent(UUID(int=1), 2, "topic", b"state")
    change = Change(statement="UPDATE t SET a = $1", arguments=(9,), row=("t", 1))
    ((text, arguments),) = statements([event], [change])
    assert text.endswith("VALUES ($2, $3, $4, $5)")
    assert arguments == (9, UUID(int=1), 2, "topic", b"state")
