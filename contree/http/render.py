"""Rows of the read side to the API's JSON values. Pure; every key is always present.

The key names and types are the hosted API's; the published clients fail on a missing key or a null
where they expect a number, so values that were not measured are 0 or -1 (docs/api.md).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from contree.app.access import Caller
from contree.app.limits import Limits
from contree.app.reads import FileRow, ImageRow, OperationRow, OperationSummary
from contree.domain.operation import Status
from contree.domain.token import Permission


def image_value(row: ImageRow) -> dict[str, Any]:
    return {
        "uuid": row.image_id,
        "tag": row.tag,
        "created_at": row.created_at,
        "operation_uuid": row.operation_id,
    }


def uploaded_file_value(row: FileRow) -> dict[str, Any]:
    return {"uuid": row.file_id, "sha256": row.sha256, "size": row.size_bytes}


def file_value(row: FileRow) -> dict[str, Any]:
    return uploaded_file_value(row) | {"created_at": row.created_at, "updated_at": row.updated_at}


def whoami_value(caller: Caller, limits: Limits, counts: dict[str, int]) -> dict[str, Any]:
    """`token_expiration` in Unix seconds, null when the token does not expire."""
    expires_at = caller.token.expires_at
    return {
        "token_uuid": caller.token.token_id,
        "token_expiration": None if expires_at is None else int(expires_at.timestamp()),
        "permissions": {p.value: p.value in caller.token.permissions for p in Permission},
        "limits": limits.as_reported(),
        "operations_stat": counts,
    }


def duration_s(row: OperationSummary, *, now: datetime) -> float:
    """Seconds from assignment to the end, or until now; 0.0 while nobody has begun."""
    if row.status.is_running and row.started_at is not None:
        return max(0.0, (now - row.started_at).total_seconds())
    return row.duration_us / 1_000_000


def operation_summary(row: OperationSummary, *, now: datetime) -> dict[str, Any]:
    usage = None if row.outcome is None else row.outcome["usage"]
    return {
        "uuid": row.operation_id,
        "kind": row.kind,
        "status": row.status,
        "error": row.error,
        "created_at": row.created_at,
        "duration": duration_s(row, now=now),
        "image_size": row.image_size_bytes,
        "consumed_cpu": (
            None if usage is None else (usage["user_time_us"] + usage["sys_time_us"]) / 1_000_000
        ),
        "consumed_memory": None if usage is None else usage["max_rss_kb"],
        "image_uuid": row.image_id,
        "result_image_uuid": row.result_image_id if row.status is Status.SUCCESS else None,
    }


def operation_result(row: OperationRow) -> dict[str, Any] | None:
    """Both keys on SUCCESS, also when a disposable run leaves nothing; else null."""
    if row.status is not Status.SUCCESS:
        return None
    return {"image": row.result_image_id, "tag": row.result_tag}
