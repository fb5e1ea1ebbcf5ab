"""Many writes as one SQL statement: the events and what they change, in one round trip.

A statement with data-modifying CTEs does not show its parts each other's effects, so two changes of
one row never share one; `arranged` deals them out in rounds that keep each row's order. Statements
here must hold no `$n` but placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from eventsourcing.persistence import StoredEvent

from contree.app.projection import Change

CHANGES_PER_STATEMENT_MAX = 200
SHAPES_MAX = 256
"""Bound on remembered statement texts; there are a few dozen in use."""

PLACEHOLDER = re.compile(r"\$(\d+)")
INSERT_EVENT = (
    "INSERT INTO public.stored_events (originator_id, originator_version, topic, state) "
    "VALUES ($1, $2, $3, $4)"
)
INSERT_EVENTS = (
    "INSERT INTO public.stored_events (originator_id, originator_version, topic, state) "
    "SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[])"
)
LOCK_LOG = "SELECT pg_advisory_xact_lock('public.stored_events'::regclass::oid::bigint)"
"""The lock that every append takes (migrations/001_event_log.sql), for who must take it sooner."""

Statement = tuple[str, tuple[Any, ...]]


def arranged(
    changes: Sequence[Change], *, round_max: int = CHANGES_PER_STATEMENT_MAX
) -> list[list[Change]]:
    """Deal `changes` out in rounds: in a round no row twice, over the rounds each row in order.

    What a change reads was written in an earlier round. A round has at most `round_max` changes.
    """
    rounds: list[list[Change]] = [[]]
    turns: dict[tuple[str, object], int] = {}
    for change in changes:
        turn = max(turns.get(row, -1) for row in _rows(change)) + 1
        while turn < len(rounds) and len(rounds[turn]) >= round_max:
            turn += 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(change)
        turns[change.row] = turn
    return rounds


def runs(changes: Sequence[Change]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Group `changes` by statement, to be run in order: each row's changes stay in their order,
    and what a change reads was written before.

    Unlike in `arranged` a run may hold a row twice: it is executed row by row.
    """
    found: list[tuple[str, list[tuple[Any, ...]]]] = []
    latest: dict[str, int] = {}
    touched: dict[tuple[str, object], int] = {}
    for change in changes:
        place = latest.get(change.statement, -1)
        if place < max(touched.get(row, 0) for row in _rows(change)):
            place = latest[change.statement] = len(found)
            found.append((change.statement, []))
        found[place][1].append(change.arguments)
        touched[change.row] = place
    return found


def _rows(change: Change) -> tuple[tuple[str, object], ...]:
    return (change.row,) if change.reads is None else (change.row, change.reads)


def statements(
    events: Sequence[StoredEvent], changes: Sequence[Change], *, guards: Sequence[str] = ()
) -> list[Statement]:
    """Return the statements that append `events` and apply `changes`, to be run in order.

    `guards` are SELECTs without placeholders that stand beside the append (read_models.guard_of).
    """
    first, *rest = arranged(changes)
    insert, appended = _insert(events)
    append = (
        _joined((*guards, *(c.statement for c in first), insert)),
        (*(a for c in first for a in c.arguments), *appended),
    )
    return [append, *(_round(changes_of_round) for changes_of_round in rest)]


def _insert(events: Sequence[StoredEvent]) -> Statement:
    """One event, the usual case, goes by values: arrays cost more on both sides of the wire."""
    if len(events) == 1:
        (e,) = events
        return INSERT_EVENT, (e.originator_id, e.originator_version, e.topic, e.state)
    return INSERT_EVENTS, (
        [e.originator_id for e in events],
        [e.originator_version for e in events],
        [e.topic for e in events],
        [e.state for e in events],
    )


def _round(changes: Sequence[Change]) -> Statement:
    text = _joined(tuple(c.statement for c in changes))
    return text, tuple(a for c in changes for a in c.arguments)


@lru_cache(maxsize=SHAPES_MAX)
def _joined(parts: tuple[str, ...]) -> str:
    """Join statements into one, all but the last as CTEs, placeholders renumbered throughout.

    PostgreSQL runs the last first, and then the others in order: the log's lock comes first.
    """
    shifted: list[str] = []
    used = 0
    for part in parts:
        numbers = [int(n) for n in PLACEHOLDER.findall(part)]
        shifted.append(_shifted(part, used))
        used += max(numbers, default=0)
    *ctes, last = shifted
    if not ctes:
        return last
    return "WITH " + ", ".join(f"c{i} AS ({cte})" for i, cte in enumerate(ctes)) + " " + last


def _shifted(part: str, offset: int) -> str:
    return PLACEHOLDER.sub(lambda match: f"${int(match[1]) + offset}", part)
