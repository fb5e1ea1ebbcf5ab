"""Draws what the benches wrote: run latency against depth, throughput against parallel runs.

    python -m bench.plots       reads bench/out/*.json, writes bench/*.png

It measures nothing. A picture whose bench has not run is left as it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: there is no display

from matplotlib import pyplot as plt

from bench._measure import OUT_DIR

PICTURES = Path(__file__).parent
INCHES = (6.4, 3.6)
DPI = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A row's number (depth, runs at a time) and spread; unit is the row's."""

    x: int
    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What to draw: the rows of `bench` whose name `pattern` matches, its group 1 is x."""

    bench: str
    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, tuple[str, str]]
    """Label: (pattern, side); side is "ours" or "reference"."""

    logarithmic: bool = False


DEPTH = Picture(
    bench="depth",
    title="A run at depth N",
    x_label="checkpoints below",
    y_label="ms, POST to completion",
    lines={"run": (r"run at depth (\d+)", "ours")},
    logarithmic=True,
)
PARALLEL = Picture(
    bench="parallel",
    title="Runs a second",
    x_label="runs at a time",
    y_label="runs/s",
    lines={
        "contree": (r"(\d+) at a time", "ours"),
        "bare QEMU restore": (r"(\d+) at a time", "reference"),
        "podman run + commit": (r"- (\d+) at a time, podman", "reference"),
    },
)


def main() -> None:
    for picture in (DEPTH, PARALLEL):
        source = OUT_DIR / f"{picture.bench}.json"
        if source.exists():
            target = PICTURES / f"{picture.bench}.png"
            draw(picture, json.loads(source.read_bytes()), target)
            sys.stdout.write(f"{target}\n")


def points(rows: Sequence[Mapping[str, Any]], pattern: str, side: str) -> list[Point]:
    """Return the points of one line, in the order of x."""
    found = []
    for row in rows:
        match = re.fullmatch(pattern, row["what"])
        if match is not None and row[side] is not None:
            spread = {name: row[side][name] for name in ("minimum", "median", "maximum")}
            found.append(Point(x=int(match[1]), **spread))
    return sorted(found, key=lambda point: point.x)


def draw(picture: Picture, document: Mapping[str, Any], target: Path) -> None:
    """Write `target`: medians with bars from the smallest to the largest sample."""
    figure, axes = plt.subplots(figsize=INCHES, dpi=DPI)
    measured: set[int] = set()
    for label, (pattern, side) in picture.lines.items():
        line = points(document["rows"], pattern, side)
        if not line:
            continue
        measured.update(point.x for point in line)
        medians = [point.median for point in line]
        below = [point.median - point.minimum for point in line]
        above = [point.maximum - point.median for point in line]
        axes.errorbar(
            [p.x for p in line], medians, yerr=[below, above], marker="o", capsize=3, label=label
        )
    if picture.logarithmic:
        axes.set_xscale("log")
    axes.set_xticks(sorted(measured), labels=[f"{x:,}" for x in sorted(measured)])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(picture.x_label)
    axes.set_ylabel(picture.y_label)
    machine = document["machine"]
    axes.set_title(
        f"{picture.title} ({document['at'][:10]}, {machine['cores']} cores, "
        f"{document['accelerator'].upper()})",
        fontsize="medium",
    )
    if len(picture.lines) > 1:
        axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target)
    plt.close(figure)


if __name__ == "__main__":
    main()
