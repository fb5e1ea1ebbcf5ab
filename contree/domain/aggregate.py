"""What all aggregates and events share: the library's machinery plus our context fields.

Topics are explicit names registered here, never module paths, so code may move without breaking
the log. An event class says what happened; its `apply` says what that means for the aggregate and
never refuses. Decisions (and refusals) are methods of the aggregates.
"""

from __future__ import annotations

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
    """Base of all aggregates. Pending events leave through `collect_events`."""

    TOPIC: ClassVar[str]

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


_event_types: set[str] = set()


def register(*classes: type[Aggregate | Event]) -> None:
    """Make each class findable by its `TOPIC`; called once by the module that defines them."""
    for cls in classes:
        register_topic(cls.TOPIC, cls)
        if issubclass(cls, Event):
            _event_types.add(cls.TOPIC)


def event_types() -> list[str]:
    """Return the topics of all registered events, sorted."""
    return sorted(_event_types)
