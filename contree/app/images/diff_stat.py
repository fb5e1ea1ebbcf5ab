"""Changes counted by directory: what `diff --stat` shows of a whole image. Pure.

Every change is counted under its path, cut to as many components as leave LINES_MAX lines: a
package that brings ten thousand files is one line, a few edited files are a line each.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from contree.app.images.git_names import quoted
from contree.app.images.image_comparison import ChangeKind, ImageChange

LINES_MAX: Final = 40

COMPONENTS_MAX: Final = 2048
"""More than a path can have."""

_MARKS: Final = {
    ChangeKind.ADDED: "+",
    ChangeKind.REMOVED: "-",
    ChangeKind.RENAMED: ">",
}
_OTHERS: Final = "~"
SHOWN_MARKS: Final = "+-~>"


class DiffStat:
    """Counts as changes pass by, in bounded memory."""

    def __init__(self) -> None:
        self._depth = COMPONENTS_MAX
        self._counts: dict[bytes, Counter[str]] = {}

    def add(self, change: ImageChange) -> None:
        path = change.path.encode("utf-8", "surrogateescape")
        self._count(path, Counter({_MARKS.get(change.kind, _OTHERS): 1}))
        while len(self._counts) > LINES_MAX:
            deepest = max(path.rstrip(b"/").count(b"/") for path in self._counts)
            self._depth = max(0, min(self._depth, deepest) - 1)
            counts, self._counts = self._counts, {}
            for path, count in counts.items():
                self._count(path, count)

    def lines(self) -> list[bytes]:
        """Return a line for each path or directory, sorted: its counts, then its name."""
        return [
            f"{sum(counts.values()):>7}  {_shown(counts):<24}".encode() + b"  " + quoted(path)
            for path, counts in sorted(self._counts.items())
        ]

    def _count(self, path: bytes, count: Counter[str]) -> None:
        parts = path.rstrip(b"/").split(b"/")
        if len(parts) - 1 > self._depth:
            path = b"/".join(parts[: self._depth + 1]) + b"/"
            count = count + self._counts.pop(path[:-1], Counter())
        elif path + b"/" in self._counts:
            path += b"/"
        self._counts.setdefault(path, Counter()).update(count)


def _shown(counts: Counter[str]) -> str:
    return " ".join(f"{mark}{counts[mark]}" for mark in SHOWN_MARKS if counts[mark])
