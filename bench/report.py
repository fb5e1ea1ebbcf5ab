"""Makes tables of what the benches wrote, for bench/README.md.

    python -m bench.report      reads bench/out/*.json, writes between the marks in bench/README.md

and prints the short table, the rows that answer a question, for its section "The answers in short".
It measures nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench._measure import BUSY_SHARE, OUT_DIR, names, number, span, target_text

README = Path(__file__).parent / "README.md"
BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"
DETAIL = "- "
"""Rows whose name begins so explain the row above them."""

Document = Mapping[str, Any]


def main() -> None:
    paths = (OUT_DIR / f"{name}.json" for name in names())
    documents = [json.loads(path.read_bytes()) for path in paths if path.exists()]
    if not documents:
        sys.exit(f"{OUT_DIR} is empty: run `make bench` first")
    README.write_text(with_table(README.read_text(), full_table(documents)))
    sys.stdout.write(short_table(documents) + "\n")


def with_table(text: str, table: str) -> str:
    """Return `text` with what lies between the marks replaced. Raises ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README.name}: needs the lines '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def full_table(documents: Sequence[Document]) -> str:
    """Return every row of every bench, with its notes, as Markdown."""
    parts = [_where(documents)]
    for document in documents:
        parts += [f"### {document['name']}", document["question"], _table(document["rows"])]
        names = dict.fromkeys(row["reference_name"] for row in document["rows"])
        said = [f"Reference: {name}." for name in names if name]
        said += [f"{note[0].upper()}{note[1:]}." for note in document["notes"]]
        said.append(
            f"Took {document['took_s']:.0f} s; load {document['load_start']} before, "
            f"{document['load_end']} after."
        )
        parts.append("\n".join(f"- {line}" for line in said))
    return "\n\n".join(parts)


def short_table(documents: Sequence[Document]) -> str:
    """Return the rows that answer a question, as Markdown."""
    rows = [row for d in documents for row in d["rows"] if not row["what"].startswith(DETAIL)]
    return f"{_table(rows)}\n\n{_where(documents)}"


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = [
        "| what | ours | min .. max | reference | min .. max | ratio | target |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        ours, reference, unit = row["ours"], row["reference"], row["unit"]
        cells = (
            _escaped(row["what"].replace(DETAIL, "&nbsp;&nbsp;", 1)),
            f"{number(ours['median'])} {unit}",
            span(ours),
            f"{number(reference['median'])} {unit}" if reference else "",
            span(reference) if reference else "",
            f"{row['ratio']:.2f}" if row["ratio"] is not None else "",
            _escaped(target_text(row)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _where(documents: Sequence[Document]) -> str:
    """Say when and on what, each machine once, should there be several, and what is missing."""
    days = sorted({document["at"][:10] for document in documents})
    machines = {json.dumps(document["machine"], sort_keys=True) for document in documents}
    guests = {document["accelerator"].upper() for document in documents} - {""}
    said = [f"Measured {' to '.join(dict.fromkeys((days[0], days[-1])))}."]
    said += [
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_mib']:,} MiB, "
        f"Linux {machine['kernel']}, QEMU {machine['qemu']}, libvirt {machine['libvirt']}, "
        f"PostgreSQL {machine['postgresql']}, Python {machine['python']}."
        for machine in map(json.loads, sorted(machines))
    ]
    said += [f"Guests under {' and '.join(sorted(guests))}."] if guests else []
    busy = [d["name"] for d in documents if d["others_share"] > BUSY_SHARE]
    if busy:
        said.append(f"The machine was busy with other work around: {', '.join(busy)}.")
    if missing := sorted(set(names()) - {document["name"] for document in documents}):
        said.append(f"Not measured: {', '.join(missing)}.")
    return " ".join(said)


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("<=", "≤").replace(">=", "≥")


if __name__ == "__main__":
    main()
