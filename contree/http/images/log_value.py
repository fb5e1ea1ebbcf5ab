"""The log of an image as the API's JSON values. Pure."""

from __future__ import annotations

from typing import Any

from contree.app.images.image_log import LogEntry
from contree.http.images.diff_value import change_value, summary_value


def log_entry_value(entry: LogEntry) -> dict[str, Any]:
    """Return an entry; an import has no command, one that is not recorded no operation."""
    made, image = entry.operation, entry.image
    return {
        "image": image.image_id,
        "parents": [] if image.parent_image_id is None else [image.parent_image_id],
        "operation": image.operation_id,
        "kind": None if made is None else made.kind,
        "at": image.created_at,
        "actor": entry.actor,
        "command": None if made is None else made.command,
        "args": None if made is None else made.args,
        "shell": entry.shell,
        "registry_url": None if made is None else made.registry_url,
        "exit_code": None if made is None else made.exit_code,
        "tags": entry.tags,
        "changed": None if entry.changed is None else summary_value(entry.changed),
        "changes": [change_value(change) for change in entry.changes],
    }
