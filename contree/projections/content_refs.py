"""Which operations have a content: what removal asks before it removes one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from contree.app.projection import Change
from contree.domain import operation as op
from contree.domain.aggregate import Event

INSERT: Final = (
    "INSERT INTO content_refs (project_id, sha256, operation_id) "
    "SELECT $1::uuid, decode(unnest($2::text[]), 'hex'), $3::uuid ON CONFLICT DO NOTHING"
)
NOTHING: Final = hashlib.sha256().hexdigest()

Stored = Mapping[str, Any]
"""A recorded fact about content: its digest under `sha256`."""


class ContentRefsProjection:
    """The table `content_refs`; without empty content, which nearly every operation has."""

    tables: tuple[str, ...] = ("content_refs",)
    ddl = """
CREATE TABLE IF NOT EXISTS content_refs (
    project_id   uuid  NOT NULL,
    sha256       bytea NOT NULL,
    operation_id uuid  NOT NULL,
    PRIMARY KEY (project_id, sha256, operation_id)
);
"""

    def apply(self, event: Event) -> Sequence[Change]:
        digests = sorted({one["sha256"] for one in _had(event) if one is not None} - {NOTHING})
        if not digests:
            return ()
        operation_id = event.originator_id
        return (
            Change(
                statement=INSERT,
                arguments=(event.project_id, digests, operation_id),
                # As good as a row: what is there already is left alone.
                row=("content_refs", operation_id),
            ),
        )


def _had(event: Event) -> Sequence[Stored | None]:
    match event:
        case op.InstanceRequested() | op.SubprocessSpawned():
            return event.spec["stdin"], event.spec["body"]
        case op.OperationSucceeded() | op.OperationFailed() if event.outcome is not None:
            return event.outcome["stdout"], event.outcome["stderr"]
        case _:
            return ()
