"""A comparison of a replay with its original, as JSON and as lines for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from contree.domain.replay_report import (
    Ended,
    FileDifference,
    ReplayReport,
    Resources,
    StreamComparison,
    StreamSide,
)
from contree.domain.text_difference import Cause, TextDifference


def report_value(report: ReplayReport) -> dict[str, Any]:
    """Return the JSON form: every part with `equal`, and what explains it where it is not."""
    return {
        "original": report.original_id,
        "replay": report.replay_id,
        "verdict": report.verdict.value,
        "differs": list(report.differing),
        "causes": _causes(report.causes),
        "end": {
            "equal": report.ended[0] == report.ended[1],
            "original": _end(report.ended[0]),
            "replay": _end(report.ended[1]),
        },
        "stdout": _stream(report.stdout),
        "stderr": _stream(report.stderr),
        "filesystem": {
            "equal": report.filesystem.is_equal,
            "not_compared": report.filesystem.not_compared,
            "equal_entries": report.filesystem.equal_count,
            "differences": [_file(one) for one in report.filesystem.differences],
            "truncated": report.filesystem.truncated,
            "causes": _causes(report.filesystem.causes),
        },
        "resources": {
            "original": _resources(report.resources[0]),
            "replay": _resources(report.resources[1]),
        },
        "not_replayed": list(report.not_replayed),
    }


def _end(ended: Ended) -> dict[str, Any]:
    return asdict(ended)


def _stream(comparison: StreamComparison) -> dict[str, Any]:
    return {
        "equal": comparison.is_equal,
        "original": _side(comparison.original),
        "replay": _side(comparison.replay),
        "first_difference": _difference(comparison.first_difference),
        "causes": _causes(comparison.causes),
    }


def _side(side: StreamSide | None) -> dict[str, Any] | None:
    return None if side is None else asdict(side)


def _file(one: FileDifference) -> dict[str, Any]:
    return {
        "path": one.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        "fields": list(one.fields),
        "original": one.original,
        "replay": one.replay,
        "first_difference": _difference(one.first_difference),
        "causes": _causes(one.causes),
    }


def _difference(found: TextDifference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "offset": found.offset,
        "line": found.line,
        "original": found.original.decode("utf-8", "replace"),
        "replay": found.replay.decode("utf-8", "replace"),
    }


def _resources(used: Resources) -> dict[str, Any]:
    usage = None if used.usage is None else asdict(used.usage)
    return {"duration_us": used.duration_us, "usage": usage}


def _causes(causes: frozenset[Cause]) -> list[str]:
    return sorted(cause.value for cause in causes)
