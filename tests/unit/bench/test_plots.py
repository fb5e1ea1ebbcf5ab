"""Pictures of hand-made rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.plots import DEPTH, PARALLEL, draw, points

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def row(what: str, ours: float, reference: float | None = None) -> dict[str, Any]:
    def spread(value: float) -> dict[str, float]:
        return {"minimum": value - 1, "median": value, "maximum": value + 2}

    return {
        "what": what,
        "ours": spread(ours),
        "reference": None if reference is None else spread(reference),
    }


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "rows": list(rows),
        "at": "2026-01-02T03:04:05+00:00",
        "machine": {"cores": 2},
        "accelerator": "tcg",
    }


def test_a_line_has_the_rows_of_its_pattern_in_order() -> None:
    rows = [row("10 at a time", 5, 6), row("2 at a time", 3), row("- 2 at a time, podman", 3, 9)]
    pattern, side = PARALLEL.lines["contree"]
    assert [(p.x, p.median) for p in points(rows, pattern, side)] == [(2, 3), (10, 5)]
    pattern, side = PARALLEL.lines["bare QEMU restore"]
    assert [(p.x, p.median) for p in points(rows, pattern, side)] == [(10, 6)]
    pattern, side = PARALLEL.lines["podman run + commit"]
    assert [(p.x, p.minimum, p.maximum) for p in points(rows, pattern, side)] == [(2, 8, 11)]


def test_a_picture_is_written(tmp_path: Path) -> None:
    target = tmp_path / "depth.png"
    draw(DEPTH, document(row("run at depth 1", 300), row("run at depth 1000", 310, 300)), target)
    assert target.read_bytes().startswith(PNG_SIGNATURE)
