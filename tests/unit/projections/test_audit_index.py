"""The fold of the audit index, without a database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.app.audit.audit_index import Mark
from contree.app.recorded_log import RecordedEvent
from contree.projections import audit_index
from contree.projections.audit_index import AuditRows, fold_audit
from tests.fakes.clock import EPOCH

RECORDED = Path(__file__).parents[1] / "adapters/postgres/recorded_events.json"
PINNED_EVENTS = 35
"""Recorded events that there were when the digests were first taken; more may have come."""

FOLD_OF_RELEASE = {1: "20d6f47e056fe62f"}
"""Digest of the fold of those, by VERSION."""

Pair = tuple[RecordedEvent, Mapping[str, Any]]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Every recorded event with its fields, at positions 10, 20, ..."""
    decode = OrjsonTranscoder().decode
    found = []
    for number, line in enumerate(json.loads(RECORDED.read_text())["events"], start=1):
        event = RecordedEvent(
            position=10 * number,
            aggregate_id=UUID(line["originator_id"]),
            version=line["originator_version"],
            topic=line["topic"],
            state=line["state"].encode(),
            recorded_at=EPOCH + timedelta(seconds=number),
            hash=bytes(32),
        )
        found.append((event, decode(event.state)))
    return found


def test_rows_that_change_come_with_a_new_version(pairs: list[Pair]) -> None:
    """When this fails, the fold gives other rows than those in every deployed index: raise
    VERSION, so that they are folded again, and pin the new digest beside the old."""
    mark, rows = fold_audit(Mark(), pairs[:PINNED_EVENTS])
    text = repr((mark, [sorted(map(repr, column)) for column in astuple(rows)]))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert FOLD_OF_RELEASE[audit_index.VERSION] == digest


def put_together(whole: AuditRows, more: AuditRows) -> None:
    """What the database makes of a batch on top of others."""
    ends = {id_: (ended, status) for id_, ended, status in more.ends}
    whole.operations = [
        (*row[:5], *ends[row[0]]) if row[0] in ends else row for row in whole.operations
    ]
    for name in ("entries", "mentions", "images", "operations", "tag_moves"):
        getattr(whole, name).extend(getattr(more, name))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_batches_of_any_size_give_the_same(pairs: list[Pair], size: int) -> None:
    mark, whole = fold_audit(Mark(), pairs)
    at, pieces = Mark(), AuditRows()
    for start in range(0, len(pairs), size):
        at, rows = fold_audit(at, pairs[start : start + size])
        put_together(pieces, rows)
    whole.ends.clear()
    assert at == mark
    assert {k: sorted(map(repr, getattr(pieces, k))) for k in pieces.__slots__} == {
        k: sorted(map(repr, getattr(whole, k))) for k in whole.__slots__
    }


def test_the_logs_time_never_falls(pairs: list[Pair]) -> None:
    back = [
        (replace(event, recorded_at=EPOCH - timedelta(seconds=event.position)), facts)
        for event, facts in pairs
    ]
    _, rows = fold_audit(Mark(log_time=EPOCH, latest_at=EPOCH), back)
    assert {row[1] for row in rows.entries} == {EPOCH}
    latest = [row[2] for row in rows.entries]
    assert latest == sorted(latest)


def test_nothing_makes_nothing_and_unknown_events_are_found_by_their_context() -> None:
    assert fold_audit(Mark(position=3), ()) == (Mark(position=3), AuditRows())
    event = RecordedEvent(
        position=1,
        aggregate_id=UUID(int=1),
        version=1,
        topic="contree.future.happened",
        state=b"",
        recorded_at=EPOCH,
        hash=bytes(32),
    )
    facts = {"project_id": UUID(int=2), "actor": "a", "timestamp": EPOCH, "request_id": "r"}
    mark, rows = fold_audit(Mark(), [(event, facts)])
    assert mark.position == 1
    assert rows.entries == [
        (1, EPOCH, EPOCH, UUID(int=2), "a", "contree.future.happened", None, None)
    ]
    assert replace(rows, entries=[]) == AuditRows()
