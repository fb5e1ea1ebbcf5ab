"""Every event class has a topic and a recorded example that still decodes and folds the same.

`recorded_events.json` holds payloads as they were stored once, for good: add to it, never change a
line. `python -m tests.unit.adapters.postgres.test_recorded_events` prints a new recording.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.utils import get_topic, resolve_topic

from contree.adapters.postgres.transcoder import event_mapper
from contree.domain.aggregate import Aggregate, Created, Event
from tests.support.histories import History

RECORDED = Path(__file__).with_name("recorded_events.json")
TOPIC_PREFIX = "contree."


def classes_below(cls: type[Any]) -> set[type[Any]]:
    """The classes of the domain below `cls`, however deep."""
    found = {s for child in cls.__subclasses__() for s in classes_below(child)}
    if cls.__module__.startswith("contree.domain.") and "TOPIC" in vars(cls):
        found.add(cls)
    return found


def recording() -> dict[str, list[dict[str, object]]]:
    recorded: dict[str, list[dict[str, object]]] = json.loads(RECORDED.read_text())
    return recorded


def event_from(line: dict[str, object]) -> Event:
    event = event_mapper().to_domain_event(
        StoredEvent(
            UUID(str(line["originator_id"])),
            int(str(line["originator_version"])),
            str(line["topic"]),
            str(line["state"]).encode(),
        )
    )
    assert isinstance(event, Event)
    return event


def test_every_event_and_aggregate_class_has_an_explicit_topic_that_finds_it() -> None:
    classes = classes_below(Event) | classes_below(Aggregate)
    assert len(classes) > 20
    for cls in classes:
        topic = get_topic(cls)
        assert topic.startswith(TOPIC_PREFIX)
        assert ":" not in topic
        assert resolve_topic(topic) is cls


def test_no_event_class_is_without_a_topic_of_its_own() -> None:
    without = {
        cls
        for parent in (Event, Created)
        for cls in parent.__subclasses__()
        if cls is not Created
        and cls.__module__.startswith("contree.domain.")
        and "TOPIC" not in vars(cls)
    }
    assert not without


def test_every_event_class_has_a_recorded_example() -> None:
    recorded = {line["topic"] for line in recording()["events"]}
    assert recorded >= {get_topic(cls) for cls in classes_below(Event)}


def test_recorded_events_still_fold_to_what_they_meant() -> None:
    aggregates: dict[UUID, Aggregate] = {}
    for line in recording()["events"]:
        event = event_from(line)
        folded = event.mutate(aggregates.get(event.originator_id))
        assert isinstance(folded, Aggregate)
        aggregates[event.originator_id] = folded
    for line in recording()["aggregates"]:
        aggregate = aggregates[UUID(str(line["id"]))]
        assert get_topic(type(aggregate)) == line["topic"]
        attributes = line["attributes"]
        assert isinstance(attributes, dict)
        for name, shown in attributes.items():
            assert repr(getattr(aggregate, name)) == shown, name


def test_recorded_events_keep_their_context() -> None:
    for event in map(event_from, recording()["events"]):
        assert event.actor
        assert isinstance(event.project_id, UUID)
        assert event.request_id
        assert event.timestamp.tzinfo is not None


def record() -> dict[str, list[dict[str, object]]]:
    """A few aggregates of a long history that have every event class between them."""
    history, mapper = History(0xC0), event_mapper()
    stored: dict[UUID, list[StoredEvent]] = {}
    for touched in history.steps(800):
        for aggregate in touched:
            events = [mapper.to_stored_event(e) for e in aggregate.collect_events()]
            stored.setdefault(aggregate.id, []).extend(events)
    missing = {e.topic for events in stored.values() for e in events}
    chosen: list[UUID] = []
    while missing:
        best = max(stored, key=lambda id_: len(missing & {e.topic for e in stored[id_]}))
        missing -= {e.topic for e in stored[best]}
        chosen.append(best)
    return {
        "events": [
            {
                "topic": e.topic,
                "originator_id": str(e.originator_id),
                "originator_version": e.originator_version,
                "state": e.state.decode(),
            }
            for id_ in chosen
            for e in stored[id_]
        ],
        "aggregates": [shown(history.aggregates[id_]) for id_ in chosen],
    }


def shown(aggregate: Aggregate) -> dict[str, object]:
    attributes = sorted(vars(aggregate).items())
    return {
        "topic": get_topic(type(aggregate)),
        "id": str(aggregate.id),
        "attributes": {name: repr(value) for name, value in attributes if name[0] != "_"},
    }


if __name__ == "__main__":
    print(json.dumps(record(), indent=1))
