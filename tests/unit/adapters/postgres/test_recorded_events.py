"""Log format 1: every event has recorded examples that decode, now and in every later release.

`recorded_events.json` holds payloads as they are stored, of each event and each optional part of
one. It is the definition of the format (ARCHITECTURE.md, Log format). The rules, held below:

- Examples are only ever added, at the end; what is there is never changed (`SEALED`).
- An event whose stored shape changes takes a version step (the library's convention): on its class
  `class_version = N + 1` and `upcast_vN_vN+1(state)`, which turns the old state into the new one.
  Its examples of version N stay, and examples of N + 1 are added.
- `python -m tests.unit.adapters.postgres.test_recorded_events` prints the file with what is missing
  added; write it over the file, and add its seal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from eventsourcing.persistence import (
    DatetimeAsISO,
    DecimalAsStr,
    JSONTranscoder,
    Mapper,
    StoredEvent,
    UUIDAsHex,
)
from eventsourcing.utils import get_topic, resolve_topic

from contree.adapters.postgres.transcoder import event_mapper
from contree.domain.aggregate import Aggregate, Created, Event, register
from tests.support.histories import History

RECORDED = Path(__file__).with_name("recorded_events.json")
TOPIC_PREFIX = "contree."

FORMAT = 1
"""The log format that the examples are of; a release that cannot read them is another product."""

SEALED = ((35, "cf1fca5f892e43c2d542bbb5057085ea5ab0085f1435d3491afadc367da2b04b"),)
"""So many first examples have this digest. When examples are added, a line is added."""

FREE_KEYS = frozenset({"env", "env_digests", "preserved_env", "files", "facts", "query"})
"""Mappings whose keys are data and no part of an event's shape."""

HISTORIES = 40
"""So many are played for an example that is missing."""

Recording = dict[str, Any]


def classes_below(cls: type[Any]) -> set[type[Any]]:
    """The classes of the domain below `cls`, however deep."""
    found = {s for child in cls.__subclasses__() for s in classes_below(child)}
    if cls.__module__.startswith("contree.domain.") and "TOPIC" in vars(cls):
        found.add(cls)
    return found


EVENT_CLASSES = sorted(classes_below(Event), key=get_topic)


def version_of(cls: type[Any]) -> int:
    version: int = getattr(cls, "class_version", 1)
    return version


def recording() -> Recording:
    recorded: Recording = json.loads(RECORDED.read_text())
    return recorded


def stored_from(line: dict[str, Any]) -> StoredEvent:
    return StoredEvent(
        UUID(line["originator_id"]),
        line["originator_version"],
        line["topic"],
        line["state"].encode(),
    )


def event_from(line: dict[str, Any]) -> Event:
    event = event_mapper().to_domain_event(stored_from(line))
    assert isinstance(event, Event)
    return event


# What an event's stored state looks like: "spec.files.*.mode", one path for each value.


def shape(state: str | bytes) -> set[str]:
    """The paths of a stored state."""
    return set(_paths(json.loads(state), ""))


def _paths(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and value.keys() != {"_type_", "_data_"}:
        free = path.rpartition(".")[2] in FREE_KEYS
        for key, item in value.items():
            if path or key != "class_version":
                yield from _paths(item, f"{path}.{'*' if free else key}".lstrip("."))
    if path and not path.endswith("*"):
        yield path


def shapes(lines: Iterable[tuple[str, str | bytes]]) -> dict[tuple[str, int], set[str]]:
    """The paths of each (topic, version) among stored (topic, state)."""
    found: dict[tuple[str, int], set[str]] = {}
    for topic, state in lines:
        key = topic, json.loads(state).get("class_version", 1)
        found.setdefault(key, set()).update(shape(state))
    return found


@cache
def shapes_now() -> dict[tuple[str, int], set[str]]:
    """What the present code stores, over a history long enough to meet every optional part."""
    mapper = event_mapper()
    stored = (
        mapper.to_stored_event(event)
        for touched in History(0xC1).steps(1500)
        for aggregate in touched
        for event in aggregate.collect_events()
    )
    return shapes((event.topic, event.state) for event in stored)


def recorded_shapes() -> dict[tuple[str, int], set[str]]:
    return shapes((line["topic"], line["state"]) for line in recording()["events"])


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


@pytest.mark.parametrize("cls", EVENT_CLASSES, ids=get_topic)
def test_every_version_of_an_event_has_a_recorded_example_and_a_step_to_the_next(
    cls: type[Event],
) -> None:
    versions = range(1, version_of(cls) + 1)
    recorded = {version for topic, version in recorded_shapes() if topic == get_topic(cls)}
    assert recorded == set(versions), "record an example of each version, and of none to come"
    for version in versions[:-1]:
        assert callable(getattr(cls, f"upcast_v{version}_v{version + 1}"))


@pytest.mark.parametrize("cls", EVENT_CLASSES, ids=get_topic)
def test_an_events_stored_shape_changes_only_with_a_version_step(cls: type[Event]) -> None:
    key = get_topic(cls), version_of(cls)
    assert key in shapes_now(), "tests.support.histories makes no such event: let it"
    now, recorded = shapes_now()[key], recorded_shapes().get(key, set())
    assert now == recorded, (
        f"{cls.__name__} is stored differently now (+{sorted(now - recorded)}, "
        f"-{sorted(recorded - now)}): raise its class_version, write "
        f"upcast_v{key[1]}_v{key[1] + 1}, and add recorded examples (see this module)"
    )


def test_the_examples_are_of_format_1() -> None:
    assert recording()["format"] == FORMAT


@pytest.mark.parametrize(("count", "digest"), SEALED)
def test_recorded_examples_are_only_ever_added(count: int, digest: str) -> None:
    assert seal(recording()["events"][:count]) == digest


def test_every_recorded_example_is_sealed() -> None:
    assert SEALED[-1][0] == len(recording()["events"])


def seal(events: Sequence[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(events, sort_keys=True).encode()).hexdigest()


def test_recorded_events_still_fold_to_what_they_meant() -> None:
    """What an aggregate has learnt to know since is no part of what was recorded of it."""
    aggregates: dict[UUID, Aggregate] = {}
    for line in recording()["events"]:
        event = event_from(line)
        folded = event.mutate(aggregates.get(event.originator_id))
        assert isinstance(folded, Aggregate)
        aggregates[event.originator_id] = folded
    for line in recording()["aggregates"]:
        aggregate = aggregates[UUID(line["id"])]
        assert get_topic(type(aggregate)) == line["topic"]
        for name, meant in line["attributes"].items():
            assert restricted(shown(getattr(aggregate, name)), meant) == meant, name


def restricted(value: Any, meant: Any) -> Any:
    """`value` without the fields that `meant` does not know."""
    if isinstance(value, dict) and isinstance(meant, dict):
        return {k: restricted(v, meant[k]) for k, v in value.items() if k in meant}
    return value


def test_recorded_events_keep_their_context() -> None:
    for event in map(event_from, recording()["events"]):
        assert event.actor
        assert isinstance(event.project_id, UUID)
        assert event.request_id
        assert event.timestamp.tzinfo is not None


def test_the_stock_library_decodes_every_recorded_event_to_the_same() -> None:
    transcoder = JSONTranscoder()
    for transcoding in (UUIDAsHex(), DatetimeAsISO(), DecimalAsStr()):
        transcoder.register(transcoding)
    stock: Mapper[UUID] = Mapper(transcoder)
    for line in recording()["events"]:
        assert vars(stock.to_domain_event(stored_from(line))) == vars(event_from(line))


class Renamed(Event):
    """Stored as version 1 long ago, read as version 3."""

    TOPIC = "test.renamed"
    class_version = 3
    size_bytes: int
    unit: str

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        state["size_bytes"] = state.pop("size_kb") * 1024

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> None:
        state["unit"] = "byte"


register(Renamed)


def test_a_step_of_versions_is_taken_when_an_old_state_is_read() -> None:
    mapper = event_mapper()
    old = mapper.to_domain_event(StoredEvent(UUID(int=1), 1, Renamed.TOPIC, b'{"size_kb":2}'))
    facts = {"size_bytes": 2048, "unit": "byte"}
    assert vars(old) == {"originator_id": UUID(int=1), "originator_version": 1} | facts
    again = mapper.to_stored_event(old)
    assert json.loads(again.state) == facts | {"class_version": 3}
    assert vars(mapper.to_domain_event(again)) == vars(old)


def with_additions() -> Recording:
    """The recording with aggregates of new histories added for each shape that it lacks.

    Many short histories rather than a long one: of the aggregates that have a shape the one of the
    fewest events is taken.
    """
    recorded, mapper = recording(), event_mapper()
    stored: dict[UUID, list[StoredEvent]] = {}
    made: dict[UUID, Aggregate] = {}
    for number in range(HISTORIES):
        history = History(0x1000 + HISTORIES * len(recorded["events"]) + number)
        for touched in history.steps(150):
            for aggregate in touched:
                events = [mapper.to_stored_event(e) for e in aggregate.collect_events()]
                stored.setdefault(aggregate.id, []).extend(events)
        made |= history.aggregates
    known = recorded_shapes()

    def lacking(events: Iterable[StoredEvent]) -> set[tuple[str, int, str]]:
        found = shapes((e.topic, e.state) for e in events)
        return {(*k, path) for k, paths in found.items() for path in paths - known.get(k, set())}

    missing = lacking(e for events in stored.values() for e in events)
    while missing:
        best = max(stored, key=lambda i: (len(missing & lacking(stored[i])), -len(stored[i])))
        missing -= lacking(stored[best])
        recorded["events"] += [
            {
                "topic": e.topic,
                "originator_id": str(e.originator_id),
                "originator_version": e.originator_version,
                "state": e.state.decode(),
            }
            for e in stored.pop(best)
        ]
        recorded["aggregates"].append(recorded_aggregate(made[best]))
    return recorded


def recorded_aggregate(aggregate: Aggregate) -> dict[str, Any]:
    attributes = sorted(vars(aggregate).items())
    return {
        "topic": get_topic(type(aggregate)),
        "id": str(aggregate.id),
        "attributes": {name: shown(value) for name, value in attributes if name[0] != "_"},
    }


def shown(value: Any) -> Any:
    """A value as the recording has it: text, dataclasses by their fields."""
    if is_dataclass(value):
        return {f.name: shown(getattr(value, f.name)) for f in fields(value)}
    return repr(value)


if __name__ == "__main__":
    added = with_additions()
    print(json.dumps(added, indent=1))
    raise SystemExit(f'add to SEALED: ({len(added["events"])}, "{seal(added["events"])}")')
