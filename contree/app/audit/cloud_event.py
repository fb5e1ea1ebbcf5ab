"""Recorded events as CloudEvents 1.0 in structured JSON mode, for API and command line.

    id, source        the position; with the source it is unique
    time              when it was decided, by the clock of who decided it
    recordedtime      when the database took it
    hash              of the log's row, hex: what proofs refer to
    actor, projectid, requestid, aggregateversion   the rest of its context

`data` are the event's own fields, as recorded: what was masked or sealed stays so. Pure.
"""

from __future__ import annotations

from typing import Any

from contree.app.audit.audit_reads import AuditEntry

SOURCE = "/v1/audit/events"
SUBJECT_SEGMENT = 1
"""Of the type: `contree.operation.started` is about an operation."""

ENVELOPE = frozenset(
    {"timestamp", "actor", "project_id", "request_id", "originator_topic", "class_version"}
)
"""Fields that are in the envelope, or are the library's own."""


def cloud_event(entry: AuditEntry) -> dict[str, Any]:
    """Return JSON values, UUIDs and aware datetimes; attribute names are lower-case letters."""
    event, facts = entry.event, entry.facts
    about = event.topic.split(".")[SUBJECT_SEGMENT]
    return {
        "specversion": "1.0",
        "id": str(event.position),
        "source": SOURCE,
        "type": event.topic,
        "subject": f"{about}/{event.aggregate_id}",
        "time": facts["timestamp"],
        "datacontenttype": "application/json",
        "actor": facts["actor"],
        "projectid": facts["project_id"],
        "requestid": facts["request_id"],
        "aggregateversion": event.version,
        "recordedtime": event.recorded_at,
        "hash": event.hash.hex(),
        "data": {name: value for name, value in facts.items() if name not in ENVELOPE},
    }
