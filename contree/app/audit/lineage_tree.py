"""Draws the lineage of an image for a terminal, as `git log --graph` draws commits. Pure."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from contree.app.audit.audit_reads import Lineage, MakingOperation, RelatedImage
from contree.domain.operation import Kind

COMMAND_CHARS_MAX = 60
CONTROL = dict.fromkeys((*range(32), 127), "?")
"""What a recorded command may hold and a terminal should not get."""


def draw_lineage(lineage: Lineage) -> list[str]:
    """Return the lines: the import (or the oldest ancestor shown) on top, branches indented.

    `*` is the image that was asked about, `o` any other. A chain without branches stays in its
    column.
    """
    children: dict[UUID | None, list[RelatedImage]] = defaultdict(list)
    for image in lineage.images:
        children[image.parent_image_id].append(image)
    root = lineage.images[0]
    lines: list[str] = []
    # A stack, not recursion: chains may be longer than Python's stack is deep.
    waiting: list[tuple[RelatedImage, str]] = [(root, "")]
    while waiting:
        image, before = waiting.pop()
        lines.append(f"{before}{_image_text(image, lineage.image_id)}")
        below = children[image.image_id]
        # The last child goes on in this column; the others are drawn before it, indented.
        following = [(below[-1], before)] if below else []
        branches = [(child, f"{before}| ") for child in below[:-1]]
        if branches:
            lines.append(f"{before}|\\")
        waiting += [*following, *reversed(branches)]
    if lineage.truncated:
        lines.append("(there are more: raise --depth or --limit)")
    return lines


def _image_text(image: RelatedImage, here: UUID) -> str:
    mark = "*" if image.image_id == here else "o"
    tags = f"  [{', '.join(image.tags)}]" if image.tags else ""
    made = "" if image.operation is None else f"  {operation_text(image.operation)}"
    you = "  <- here" if image.image_id == here else ""
    return f"{mark} {image.image_id}{tags}  {image.created_at:%Y-%m-%d %H:%M:%S}{made}{you}"


def operation_text(made: MakingOperation) -> str:
    """Say in a few words what an operation did."""
    if made.kind is Kind.IMPORT:
        return f"import {made.registry_url}".translate(CONTROL)
    args = ("...",) if made.args is None else made.args
    command = " ".join((made.command or "", *args)).translate(CONTROL)
    if len(command) > COMMAND_CHARS_MAX:
        command = command[: COMMAND_CHARS_MAX - 3] + "..."
    ended = "" if made.exit_code is None else f"  exit {made.exit_code}"
    return f"run {command}{ended}  {made.duration_us / 1_000_000:.2f} s"
