"""Draws images and the operations between them as a tree. Pure: facts in, lines out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contree.app.tree_text import draw_tree


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
    imports = [step for step in steps if step.source is None]
    return draw_tree(imports, children=lambda step: _children(step, steps), text=_lines)


def size_text(size_bytes: int) -> str:
    """Return a size for people: `0`, `512 B`, `1.5 KiB`, `206 MiB`."""
    amount, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    digits = 0 if unit == "B" or amount >= 100 else 1
    return f"{amount:.{digits}f} {unit}"


def _children(step: Step, steps: Sequence[Step]) -> list[Step]:
    """What ran on the image that a step made; nothing runs on one that it did not make."""
    if step.result is None or step.result == step.source:
        return []
    return [other for other in steps if other.source == step.result and other is not step]


def _lines(step: Step) -> list[str]:
    facts = [f"{step.duration_s:.2f} s"]
    is_new = step.result is not None and step.result != step.source
    if is_new:
        facts.append(("+" if step.source else "") + size_text(step.image_bytes))
    first = f"{step.what}   {step.outcome or step.status}   {', '.join(facts)}"
    if step.result is None:
        return [first, "(kept nothing)"]
    if not is_new:
        return [first, "(changed nothing)"]
    return [first, f"image {step.result[:8]}" + (f"  [{step.tag}]" if step.tag else "")]
