"""The lineage of an image as a tree for a terminal. Pure."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from itertools import pairwise
from uuid import UUID

from contree.app.audit.audit_reads import Lineage, MakingOperation, RelatedImage
from contree.app.tree_text import UNSEEN, draw_tree
from contree.domain.operation import Kind

COMMAND_CHARS_MAX = 60
ID_CHARS_MIN = 8


def draw_lineage(
    lineage: Lineage, *, columns: int | None = None, whole_ids: bool = False
) -> list[str]:
    """Return the lines: the import (or the oldest ancestor shown) on top, as `draw_tree` has it.

    `*` is the image that was asked about, `o` any other. Ids are as short as tells them apart here,
    unless `whole_ids`. Lines end at `columns`, if given.
    """
    children: dict[UUID | None, list[RelatedImage]] = defaultdict(list)
    for image in lineage.images:
        children[image.parent_image_id].append(image)
    ids = [image.image_id for image in lineage.images]
    id_chars = len(str(ids[0])) if whole_ids else _enough_chars(ids)
    lines = draw_tree(
        [lineage.images[0]],
        children=lambda image: children[image.image_id],
        text=partial(_image_text, lineage.image_id, id_chars),
        straight=True,
        columns=columns,
    )
    if lineage.truncated:
        lines.append("(there are more: raise --depth or --limit)")
    return lines


def _enough_chars(ids: list[UUID]) -> int:
    """Return how much of the ids tells them apart: neighbours in order are the most alike."""
    texts = sorted(str(one) for one in ids)
    chars = ID_CHARS_MIN
    for one, other in pairwise(texts):
        while one[:chars] == other[:chars] and one != other:
            chars += 1
    return chars


def _image_text(here: UUID, id_chars: int, image: RelatedImage) -> list[str]:
    is_here = image.image_id == here
    tags = f"  [{', '.join(image.tags)}]" if image.tags else ""
    made = "" if image.operation is None else f"  {operation_text(image.operation)}"
    text = f"{str(image.image_id)[:id_chars]}{tags}{'  <- here' if is_here else ''}"
    return [f"{'*' if is_here else 'o'} {text}  {image.created_at:%Y-%m-%d %H:%M:%S}{made}"]


def operation_text(made: MakingOperation) -> str:
    """Say in a few words what an operation did."""
    if made.kind is Kind.IMPORT:
        return f"import {made.registry_url}".translate(UNSEEN)
    args = ("...",) if made.args is None else made.args
    command = " ".join((made.command or "", *args)).translate(UNSEEN)
    if len(command) > COMMAND_CHARS_MAX:
        command = command[: COMMAND_CHARS_MAX - 3] + "..."
    ended = "" if made.exit_code is None else f"  exit {made.exit_code}"
    return f"run {command}{ended}  {made.duration_us / 1_000_000:.2f} s"
