"""What all aggregates and events share: the library's machinery plus our context fields.

Topics are explicit names registered here, never module paths, so code may move without breaking
the log. An event class says what happened; its `apply` says what that means for the aggregate and
never refuses. Decisions (and refusals) are methods of the aggregates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing import domain as es
from eventsourcing.utils import register_topic

from contree.domain.context import Context


class Event(es.AggregateEvent):
    """A fact about one aggregate. Fields: JSON values, UUIDs and aware datetimes only."""

    TOPIC: ClassVar[str]
    actor: str
    project_id: UUID
    request_id: str


class Created(Event, es.AggregateCreated):
    """The first fact about an aggregate."""


class Aggregate(es.BaseAggregate[UUID]):
    """Base of all aggregates. Pending events leave through `collect_events`.

    OVERWRITES  what an event sets does not depend on what was before it. So the first event and the
                last one of each kind, in order, fold to the same as the whole history, and the log
                loads no more than these (ADR 19). For aggregates whose histories have no bound
    """

    TOPIC: ClassVar[str]
    OVERWRITES: ClassVar[bool] = False

    @classmethod
    def _begin(cls, event_class: type[Created], context: Context, id_: UUID, **facts: Any) -> Self:
        return cls._create(
            event_class,
            id=id_,
            timestamp=context.at,
            actor=context.actor,
            project_id=context.project_id,
            request_id=context.request_id,
            **facts,
        )

    def _record(self, event_class: type[Event], context: Context, **facts: Any) -> None:
        self.trigger_event(
            event_class,
            timestamp=context.at,
            actor=context.actor,
            project_id=context.project_id,
            request_id=context.request_id,
            **facts,
        )


def fold(events: Iterable[Event]) -> dict[UUID, Aggregate]:
    """Fold `events` into aggregates by id; those of one aggregate come in its order.

    Of an aggregate that OVERWRITES, events may be left out that neither are the first nor the last
    of their kind.
    """
    found: dict[UUID, Aggregate] = {}
    for event in events:
        before = found.get(event.originator_id)
        if before is not None and before.OVERWRITES:
            before.version = event.originator_version - 1
        after: Aggregate | None = event.mutate(before)
        if after is not None:
            found[event.originator_id] = after
    return found


_event_types: set[str] = set()
_later_types: dict[type[Aggregate], list[str]] = {}


def register(*classes: type[Aggregate | Event]) -> None:
    """Make each class findable by its `TOPIC`; called once by the module that defines them.

    Events that come after an aggregate are that aggregate's.
    """
    later: list[str] = []
    for cls in classes:
        register_topic(cls.TOPIC, cls)
        if issubclass(cls, Aggregate):
            later = _later_types.setdefault(cls, [])
        else:
            _event_types.add(cls.TOPIC)
            if not issubclass(cls, Created):
                later.append(cls.TOPIC)


def later_event_types(cls: type[Aggregate]) -> list[str]:
    """Return the topics of the events that may follow the first one of a `cls`."""
    return list(_later_types[cls])


def overwriting() -> list[type[Aggregate]]:
    """Return the registered aggregate classes that have OVERWRITES, by topic."""
    return sorted((cls for cls in _later_types if cls.OVERWRITES), key=lambda cls: cls.TOPIC)


def event_types() -> list[str]:
    """Return the topics of all registered events, sorted."""
    return sorted(_event_types)
