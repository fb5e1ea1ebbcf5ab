"""Draws trees for a terminal, as tree(1) does. Pure.

    import            a node's first line hangs from its parent,
    │  image 1a2b     further ones stand below it, left of what hangs from it
    ├─ left
    └─ right

`straight` leaves an only child in its parent's column, so that long chains stay readable:

    o import
    o make            the only child of the import
    ├─ o try a
    │  o again        the only child of try a
    └─ o try b
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

LEAD_COLUMNS_MAX: Final = 240
"""Of connectors left of a line. Deeper ones lose their beginning, so that lines stay bounded."""

CUT: Final = "…"
UNSEEN: Final = dict.fromkeys(
    (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "?"
)
"""Control characters, those of direction too, which a terminal should not get out of a text."""

Node = TypeVar("Node")


def draw_tree(
    roots: Sequence[Node],
    *,
    children: Callable[[Node], Sequence[Node]],
    text: Callable[[Node], Sequence[str]],
    straight: bool = False,
    columns: int | None = None,
) -> list[str]:
    """Return the lines.

    text      of a node: one line or more
    columns   that a line may have: longer ones end in CUT, and connectors take half of them at most
    """
    lead_max = LEAD_COLUMNS_MAX if columns is None else min(LEAD_COLUMNS_MAX, columns // 2)
    lines: list[str] = []
    # A stack, not recursion: chains may be longer than Python's stack is deep. With each node what
    # stands left of its first line, and left of all that comes below it.
    waiting = [(root, "", "") for root in reversed(roots)]
    while waiting:
        node, own, below = waiting.pop()
        following = children(node)
        first, *rest = text(node)
        lines.append(own + first)
        lines += [f"{below}{'│' if following else ' '}  {line}" for line in rest]
        if straight and len(following) == 1:
            waiting.append((following[0], below, below))
            continue
        for child in reversed(following):
            is_last = child is following[-1]
            hanging = _ending(below + ("└─ " if is_last else "├─ "), lead_max)
            waiting.append(
                (child, hanging, _ending(below + ("   " if is_last else "│  "), lead_max))
            )
    return lines if columns is None else [_cut(line, columns) for line in lines]


def _ending(lead: str, columns: int) -> str:
    return lead if len(lead) <= columns else CUT + lead[1 - columns :]


def _cut(line: str, columns: int) -> str:
    """Return what fits into `columns` of a terminal, which has two for a wide character."""
    width, kept = 0, 0
    for at, character in enumerate(line):
        width += _columns_of(character)
        if width <= columns - len(CUT):
            kept = at + 1
        elif width > columns:
            return line[:kept] + CUT
    return line


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
