"""The text forms of a diff, for the API and the command line alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from contree.app.images.compare_images import CompareImages, DiffOptions, ImagePair, Totals
from contree.app.images.diff_stat import DiffStat
from contree.app.images.git_names import name_status
from contree.app.images.image_comparison import ChangeKind


async def name_status_text(
    compare: CompareImages, pair: ImagePair, options: DiffOptions, *, nul: bool
) -> AsyncGenerator[bytes, None]:
    """Yield what `git diff --name-status` (with `nul`, `-z`) would print."""
    async for some in compare.changes(pair, options):
        yield b"".join(name_status(change, nul=nul) for change in some)


async def stat_text(
    compare: CompareImages, pair: ImagePair, options: DiffOptions
) -> AsyncGenerator[bytes, None]:
    """Yield the counts, then a line for each path or directory that changed (diff_stat)."""
    totals, stat = Totals(), DiffStat()
    async for some in compare.changes(pair, options):
        for change in some:
            totals.add(change)
            stat.add(change)
    summary = totals.summary()
    counts = ", ".join(f"{summary.counts[kind]} {kind.value}" for kind in ChangeKind)
    yield f"{counts}; {summary.bytes_before} bytes became {summary.bytes_after}\n".encode()
    for line in stat.lines():
        yield line + b"\n"
