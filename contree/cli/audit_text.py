"""What `contreed audit verify` and `check` found, in lines for people."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from contree.app.proof.bundle import Proven
from contree.app.proof.verify import Verdict


def verdict_lines(verdict: Verdict) -> list[str]:
    """What a verification found, for people: the first line of findings is the first bad row."""
    if verdict.is_of_nothing:
        return ["the log is empty: there is nothing to verify"]
    lines = [str(finding) for finding in verdict.findings]
    lines.append(
        f"checked {verdict.row_count} events, up to position {verdict.position}; "
        f"{verdict.checkpoint_count} checkpoints fit"
    )
    if verdict.covered:
        at = "" if verdict.covered_at is None else f", signed {_time(verdict.covered_at)}"
        lines.append(f"the newest of them covers the log's first {verdict.covered} events{at}")
    if verdict.uncovered_since is not None:
        lines.append(
            f"{verdict.size - verdict.covered} events since {_time(verdict.uncovered_since)} are "
            "covered by no checkpoint: only the chain speaks for them"
        )
    lines.append("NOT right" if verdict.findings else "all right")
    return lines


def verdict_value(verdict: Verdict) -> dict[str, Any]:
    """The same in JSON. `result`: "right", "wrong", or "empty" for a log without events."""
    result = "wrong" if verdict.findings else "right"
    return {
        "result": "empty" if verdict.is_of_nothing else result,
        "findings": [str(finding) for finding in verdict.findings],
        "checked_events": verdict.row_count,
        "position": verdict.position,
        "checkpoints": verdict.checkpoint_count,
        "covered_events": verdict.covered,
        "covered_at": verdict.covered_at,
        "uncovered_events": verdict.size - verdict.covered,
        "uncovered_since": verdict.uncovered_since,
    }


def proven_lines(proven: Proven) -> list[str]:
    """What a file proves, for people."""
    checkpoint, key = proven.signed.checkpoint, proven.signed.key
    at = "" if checkpoint.at is None else f", signed {_time(checkpoint.at)}"
    lines = [
        f"{e.recorded_at}  position {e.position}  {e.aggregate_id} v{e.version}  {e.topic}"
        for e in proven.events
    ]
    lines.append(f"proven: {proven.what}")
    lines.append(f"in the log {checkpoint.origin} of {checkpoint.size} events{at}")
    lines.append(f"by the key {key}")
    if proven.key_is_its_own:
        lines.append(
            "this key came with the file itself: compare it with one that you got in another way, "
            "or give that one with --key"
        )
    return lines


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
