"""What every bench shares: samples, their spread, alternation with a reference, the report.

    report = Report("name", "the question?")
    with report.running(): report.add(...)     # prints the table, writes bench/out/NAME.json

It states ratios and whether a target is met; it never asserts, so a slow machine fails nothing.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from bench._machine import busy_share, machine

OUT_DIR = Path(__file__).parent / "out"
BUSY_SHARE = 0.2
"""CPU that others use just before or after us, above which the medians cannot be trusted."""

LISTEN_S = 2.0
"""How long we listen for others, before and after."""

LOG_EVERY_S = 20.0
_said_at = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What remains of samples. All in the unit of the row."""

    minimum: float
    median: float
    maximum: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """Raises ValueError without a sample."""
        if not samples:
            raise ValueError("samples: none were taken")
        return cls(
            minimum=min(samples),
            median=statistics.median(samples),
            maximum=max(samples),
            count=len(samples),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What design section 10 asks for. `of` is what it bounds: "ratio" or "ours", our median."""

    of: str
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if self.of not in {"ratio", "ours"} or (self.at_most is None) == (self.at_least is None):
            raise ValueError("target: of is 'ratio' or 'ours', with one of at_most and at_least")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the answer.

    ratio    our median / the reference's, None without a reference
    """

    what: str
    unit: str
    ours: Spread
    reference: Spread | None
    reference_name: str
    targets: tuple[Target, ...]

    @property
    def ratio(self) -> float | None:
        if self.reference is None or self.reference.median == 0:
            return None
        return self.ours.median / self.reference.median

    def meets(self, target: Target) -> bool:
        value = self.ours.median if target.of == "ours" else self.ratio
        if value is None:
            return False
        if target.at_most is not None:
            return value <= target.at_most
        return target.at_least is not None and value >= target.at_least

    def as_json(self) -> dict[str, Any]:
        """Return its fields, its ratio, and with each target whether it is `met`."""
        targets = [asdict(target) | {"met": self.meets(target)} for target in self.targets]
        return asdict(self) | {"ratio": self.ratio, "targets": targets}


class Report:
    """The answer to one question. `name` is also the file's in bench/out.

    accelerator    what guests ran under, "" when the bench has none
    """

    def __init__(self, name: str, question: str) -> None:
        self.name = name
        self.question = question
        self.accelerator = ""
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.samples: dict[str, list[float]] = {}

    def add(
        self,
        what: str,
        unit: str,
        ours: Sequence[float],
        reference: Sequence[float] | None = None,
        *,
        reference_name: str = "",
        targets: Sequence[Target] = (),
    ) -> Row:
        """Add a row; samples are kept in the file, so that others may draw them."""
        row = Row(
            what=what,
            unit=unit,
            ours=Spread.of(ours),
            reference=None if reference is None else Spread.of(reference),
            reference_name=reference_name,
            targets=tuple(targets),
        )
        self.rows.append(row)
        self.samples[what] = list(ours)
        if reference is not None:
            self.samples[f"{what}: {reference_name}"] = list(reference)
        return row

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Measure inside; afterwards the table is printed and the file written.

        SIGTERM ends the process like an error does, so that what was started is taken away.
        """
        before = signal.signal(signal.SIGTERM, _ended)
        load_start, others_before = os.getloadavg()[0], busy_share(over_s=LISTEN_S)
        began = time.monotonic()
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)
        took_s, load_end = time.monotonic() - began, os.getloadavg()[0]
        others = max(others_before, busy_share(over_s=LISTEN_S))
        if others > BUSY_SHARE:
            self.note(f"others used up to {others:.0%} of the CPUs just before or after")
        document = {
            "name": self.name,
            "question": self.question,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "took_s": round(took_s, 1),
            "load_start": round(load_start, 2),
            "load_end": round(load_end, 2),
            "others_share": round(others, 2),
            "accelerator": self.accelerator,
            "machine": machine(),
            "rows": [row.as_json() for row in self.rows],
            "notes": self.notes,
            "samples": self.samples,
        }
        OUT_DIR.mkdir(exist_ok=True)
        (OUT_DIR / f"{self.name}.json").write_text(json.dumps(document, indent=1) + "\n")
        sys.stdout.write(as_text(document) + "\n")


def _ended(number: int, _: object) -> None:
    sys.exit(f"ended by {signal.Signals(number).name}")


def names() -> list[str]:
    """Return the names of all benches: the modules here that ask a question."""
    modules = {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}
    return sorted(modules - {"report", "plots"})


def alternate(repeat: int, **sides: Callable[[], float]) -> dict[str, list[float]]:
    """Call each side in turn, `repeat` times round; return the samples of each.

    What disturbs the machine for a while then disturbs all sides alike.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeat):
        for name, measure in sides.items():
            progress(f"{number + 1}/{repeat} {name}")
            samples[name].append(measure())
    return samples


def progress(text: str) -> None:
    """Say on standard error what is going on: a line that changes, or one now and then in a log."""
    global _said_at  # noqa: PLW0603 - there is one standard error
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
    elif (now := time.monotonic()) >= _said_at + LOG_EVERY_S:
        _said_at = now
        sys.stderr.write(f"   {text}\n")


def as_text(document: Mapping[str, Any]) -> str:
    """Render a written report as a table for people."""
    header = (
        "what",
        "unit",
        "ours",
        "(min .. max)",
        "reference",
        "(min .. max)",
        "ratio",
        "target",
    )
    lines = [header, *(_cells(row) for row in document["rows"])]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    table = ["  ".join(c.ljust(w) for c, w in zip(x, widths, strict=True)).rstrip() for x in lines]
    table.insert(1, "  ".join("-" * width for width in widths))
    references = dict.fromkeys(row["reference_name"] for row in document["rows"])
    said = [f"reference: {name}" for name in references if name]
    said += [f"note: {note}" for note in document["notes"]]
    load = f"load {document['load_start']} before, {document['load_end']} after"
    said.append(f"{document['took_s']} s, {load}")
    return "\n".join([document["question"], *table, *said])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    ours, reference = row["ours"], row["reference"]
    return (
        row["what"],
        row["unit"],
        number(ours["median"]),
        span(ours),
        number(reference["median"]) if reference else "",
        span(reference) if reference else "",
        f"{row['ratio']:.2f}" if row["ratio"] is not None else "",
        target_text(row),
    )


def span(spread: Mapping[str, Any]) -> str:
    return f"{number(spread['minimum'])} .. {number(spread['maximum'])}"


def target_text(row: Mapping[str, Any]) -> str:
    """Say what the targets of a row are and whether they are met."""
    parts = []
    for target in row["targets"]:
        sign, bound = "<=", target["at_most"]
        if bound is None:
            sign, bound = ">=", target["at_least"]
        unit = "x" if target["of"] == "ratio" else f" {row['unit']}"
        parts.append(f"{sign} {bound:g}{unit} {'met' if target['met'] else 'MISSED'}")
    return ", ".join(parts)


def number(value: float) -> str:
    """Three digits that matter, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
