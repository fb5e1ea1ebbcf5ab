"""What `contreed audit verify` and `check` found, in lines for people."""

from __future__ import annotations

from datetime import datetime

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
