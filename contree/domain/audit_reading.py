"""The AuditReading aggregate: that somebody looked into the recorded history. One event each."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from contree.domain.aggregate import Aggregate, Created, register
from contree.domain.context import Context

NO_PROJECT = UUID(int=0)
"""The project of what an operator reads over all projects at once."""


QUERY_PARAMETERS_MAX = 16
QUERY_CHARS_MAX = 256
"""Of a parameter's name and of its value, in the record of a look."""


class AuditRead(Created):
    """Recorded before the answer is given: no record, no answer.

    subject   what was read: `events`, `feed`, `lineage`, `as_of`
    query     how it was asked for, by parameter; what is long of it is cut
    found     how many events, images or rows were answered; 0 at the start of a feed
    """

    TOPIC = "contree.audit.read"
    subject: str
    query: dict[str, str]
    found: int


class AuditReading(Aggregate):
    """One look into the history. Who looked is the event's actor."""

    TOPIC = "contree.audit_reading"

    def __init__(self, subject: str, query: dict[str, str], found: int) -> None:
        self.subject = subject
        self.query = query
        self.found = found

    @classmethod
    def record(
        cls,
        context: Context,
        *,
        reading_id: UUID,
        subject: str,
        query: Mapping[str, str],
        found: int,
    ) -> AuditReading:
        shown = {
            name[:QUERY_CHARS_MAX]: value[:QUERY_CHARS_MAX]
            for name, value in list(query.items())[:QUERY_PARAMETERS_MAX]
        }
        return cls._begin(AuditRead, context, reading_id, subject=subject, query=shown, found=found)


register(AuditReading, AuditRead)
