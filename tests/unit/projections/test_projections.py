"""What every projection promises, checked over random histories without a database."""

from __future__ import annotations

import re
from uuid import UUID

import pytest

from contree.app.projection import Projection
from contree.domain.aggregate import Event
from contree.projections import ALL
from tests.fakes.clock import EPOCH
from tests.support.histories import History

PLACEHOLDER = re.compile(r"\$(\d+)")


@pytest.fixture(scope="module")
def events() -> list[Event]:
    history = History(78)
    return [
        event
        for touched in history.steps(1500)
        for aggregate in touched
        for event in aggregate.collect_events()
    ]


@pytest.mark.parametrize("projection", ALL, ids=lambda p: type(p).__name__)
def test_the_same_event_gives_the_same_changes_of_its_own_tables(
    projection: Projection, events: list[Event]
) -> None:
    changed = 0
    for event in events:
        changes = projection.apply(event)
        assert projection.apply(event) == changes
        for change in changes:
            changed += 1
            assert change.row[0] in projection.tables
            assert "RETURNING" not in change.statement
            numbers = {int(n) for n in PLACEHOLDER.findall(change.statement)}
            assert numbers == set(range(1, len(change.arguments) + 1))
            hash(change.row)
    assert changed


@pytest.mark.parametrize("projection", ALL, ids=lambda p: type(p).__name__)
def test_an_event_of_the_future_changes_nothing(projection: Projection) -> None:
    class Unheard(Event):
        TOPIC = "contree.test.unheard"

    event = Unheard(
        originator_id=UUID(int=1),
        originator_version=1,
        timestamp=EPOCH,
        actor="tester",
        project_id=UUID(int=2),
        request_id="r",
    )
    assert not projection.apply(event)


def test_every_event_class_was_played(events: list[Event]) -> None:
    """Otherwise the tests here would say less than they seem to."""
    assert {type(e).TOPIC for e in events} == {
        cls.TOPIC for cls in subclasses(Event) if "contree.domain" in cls.__module__ and _own(cls)
    }


def test_no_two_projections_share_a_table() -> None:
    tables = [table for projection in ALL for table in projection.tables]
    assert len(set(tables)) == len(tables)


def subclasses(cls: type[Event]) -> set[type[Event]]:
    return {cls, *(s for child in cls.__subclasses__() for s in subclasses(child))}


def _own(cls: type[Event]) -> bool:
    return "TOPIC" in vars(cls)
