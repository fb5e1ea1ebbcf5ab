"""Draws images and the operations between them as a tree. Pure: facts in, lines out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation as the API tells it.

    source, result  image ids; an import has no source, a disposable run no result
    image_bytes     of the new layer, or of a whole import; 0 when nothing was kept
    """

    operation: str
    what: str
    status: str
    source: str | None
    result: str | None
    duration_s: float
    image_bytes: int
    outcome: str = ""
    tag: str | None = None


def draw(steps: Sequence[Step]) -> list[str]:
    """Return the tree's lines: imports are roots, each run hangs below the image it ran on."""
    lines: list[str] = []
    for step in steps:
        if step.source is None:
            _draw_step(step, steps, lines, own="", below="")
    return lines


def size_text(size_bytes: int) -> str:
    """Return a size for people: `0`, `512 B`, `1.5 KiB`, `206 MiB`."""
    amount, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    digits = 0 if unit == "B" or amount >= 100 else 1
    return f"{amount:.{digits}f} {unit}"


def _draw_step(
    step: Step, steps: Sequence[Step], lines: list[str], *, own: str, below: str
) -> None:
    facts = [f"{step.duration_s:.2f} s"]
    if step.result is not None and step.result != step.source:
        facts.append(("+" if step.source else "") + size_text(step.image_bytes))
    outcome = step.outcome or step.status
    lines.append(f"{own}{step.what}   {outcome}   {', '.join(facts)}")
    if step.result is None:
        lines.append(f"{below}   (kept nothing)")
        return
    if step.result == step.source:
        lines.append(f"{below}   (changed nothing)")
        return
    children = [other for other in steps if other.source == step.result and other is not step]
    tag = f"  [{step.tag}]" if step.tag else ""
    lines.append(f"{below}{'│' if children else ' '}  image {step.result[:8]}{tag}")
    for child in children:
        last = child is children[-1]
        _draw_step(
            child,
            steps,
            lines,
            own=below + ("└─ " if last else "├─ "),
            below=below + ("   " if last else "│  "),
        )
