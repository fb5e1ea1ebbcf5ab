"""The log of an image as the API's JSON values. Pure."""

from __future__ import annotations

from typing import Any

from contree.app.images.image_log import LogEntry
from contree.http.images.diff_value import change_value, summary_value


def log_entry_value(entry: LogEntry) -> dict[str, Any]:
    """Return an entry; an import has no command, one that is not recorded no operation."""
    row, image = entry.operation, entry.image
    request = {} if row is None else row.request
    return {
        "image": image.image_id,
        "parents": [] if image.parent_image_id is None else [image.parent_image_id],
        "operation": image.operation_id,
        "kind": None if row is None else row.kind,
        "at": image.created_at,
        "actor": entry.actor,
        "command": request.get("command"),
        "args": request.get("args"),
        "shell": request.get("shell"),
        "registry_url": request.get("registry_url"),
        "exit_code": None if row is None or row.outcome is None else row.outcome["exit_code"],
        "tags": entry.tags,
        "changed": None if entry.changed is None else summary_value(entry.changed),
        "changes": [change_value(change) for change in entry.changes],
    }
