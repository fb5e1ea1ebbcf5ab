"""Checks the whole log, or all of it from some position on: chain, tree, checkpoints.

Everything is computed from the rows. The chain finds what was changed without care, at the row;
the tree, against checkpoints signed outside, finds also what was changed with the whole chain
recomputed, and a cut-off end. The stored tiles are checked as well: they are derived, but they tell
which row of a rewritten log is the first wrong one. Memory does not grow with the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from contree.app.proof.checkpoint_store import CheckpointStore
from contree.app.proof.checkpoint_walk import CheckpointWalk
from contree.app.proof.findings import Finding, bad_row
from contree.app.proof.log_rows import BEFORE_ALL, LogRows, OddRowError, RawRow
from contree.app.proof.log_tree import LogTree
from contree.app.proof.note_keys import SignatureCheck
from contree.app.proof.tile_check import TileCheck
from contree.app.proof.tree_reader import TreeDamagedError
from contree.app.recorded_log import RecordedLog
from contree.domain.errors import InvalidFieldError
from contree.domain.log_row import LEAF_PREFIX, position_in, time_in
from contree.domain.note import VerifierKey
from contree.domain.tile_tree import Tile, TileTree, unfinished_tiles

Progress = Callable[[int, int], None]
"""Called with how many rows were checked, and the position of the last one."""


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What a verification found; `findings` in the order of the log, none when all is right.

    row_count        rows that were checked
    position         of the last good one, 0 without
    size             events of the log up to there
    checkpoint_count checkpoints that fit the rows
    covered          events under the newest of them
    covered_at       when that was signed, None without one
    uncovered_since  when the first event beyond it was recorded, None when there is none
    """

    row_count: int = 0
    position: int = 0
    size: int = 0
    checkpoint_count: int = 0
    covered: int = 0
    covered_at: datetime | None = None
    uncovered_since: datetime | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_of_nothing(self) -> bool:
        """Whether the log is empty, as one is that was just made, or that is not the one meant."""
        return not self.size and not self.findings


class Verify:
    """`keys` are those whose checkpoints are believed: the present one and former ones."""

    def __init__(
        self,
        *,
        recorded: RecordedLog,
        rows: LogRows,
        tree: LogTree,
        store: CheckpointStore,
        keys: Collection[VerifierKey],
        check: SignatureCheck,
    ) -> None:
        self._recorded = recorded
        self._rows = rows
        self._tree = tree
        self._store = store
        self._keys = keys
        self._check = check

    async def run(self, *, after: int | None = None, progress: Progress | None = None) -> Verdict:
        """Check the rows beyond position `after`, all without one, up to the end as it is now.

        The chain begins at the hash of the row at or before `after`, which is believed, and the
        tree at stored tiles, which the next checkpoint confirms. Raises InvalidFieldError for a
        position that is not in the log, TreeDamagedError when the tree does not reach it,
        UnavailableError.
        """
        # In this order: what is signed or in the tree by now is also in the rows read later.
        walk = await CheckpointWalk.begin(
            self._store, self._tree, keys=self._keys, check=self._check
        )
        tiles = await TileCheck.begin(self._tree)
        until = await self._recorded.head()
        if after is not None and not 0 <= after <= until:
            raise InvalidFieldError("after", f"the log has positions 1 to {until}, not {after}")
        run = _Run(self._rows, walk, tiles)
        if after:
            await run.begin_at(self._tree, after)
        await run.check(after=after or BEFORE_ALL, until=until, progress=progress)
        return run.verdict


class _Run:
    """One pass over the rows."""

    def __init__(self, rows: LogRows, walk: CheckpointWalk, tiles: TileCheck) -> None:
        self.verdict = Verdict()
        self._rows = rows
        self._walk = walk
        self._tiles = tiles
        self._tree = TileTree()
        self._previous = b""

    async def begin_at(self, stored: LogTree, position: int) -> None:
        size = await stored.leaves_before(position + 1)
        try:
            tiles = await stored.tiles(unfinished_tiles(size).keys())
            self._tree = TileTree.resumed(size, tiles)
        except ValueError as error:
            raise TreeDamagedError(
                f"the stored tree does not reach position {position} ({error}): begin before it"
            ) from error
        before = await self._rows.hash_at(position)
        if before is not None:
            self.verdict.position, self._previous = before
        self.verdict.size = size
        self._tiles.begin_at(size)
        await self._walk.skip_to(size)

    async def check(self, *, after: int, until: int, progress: Progress | None) -> None:
        verdict = self.verdict
        try:
            async for batch in self._rows.stream(after=after, until=until):
                good = self._check_chain(batch)
                await self._check_tree(batch[: len(good)], good)
                if len(good) < len(batch):
                    row, _ = batch[len(good)]
                    why = await self._tiles.diagnosis(self._tree.size, _leaf(row))
                    verdict.findings.append(bad_row(row, why))
                if self._walk.misfit is not None:
                    await self._tiles.compare(self._tree.unfinished(), ())
                if verdict.findings or self._walk.misfit is not None:
                    break  # what comes after cannot be judged any more
                if progress is not None:
                    progress(verdict.row_count, verdict.position)
            else:
                await self._check_end(after, until)
        except OddRowError as error:
            verdict.findings.append(Finding(text=str(error)))
        walk = self._walk
        of_tiles = self._tiles.found(covered=walk.covered, misfit=walk.misfit is not None)
        of_roots = [] if walk.misfit is None else [walk.misfit]
        verdict.findings = [*of_tiles, *of_roots, *verdict.findings, *walk.findings]
        verdict.checkpoint_count, verdict.covered = walk.good_count, walk.covered
        verdict.covered_at = walk.covered_at

    def _check_chain(self, batch: Sequence[RawRow]) -> list[bytes]:
        """The leaves of the rows up to the first that does not follow from the one before it."""
        sha256, previous = hashlib.sha256, self._previous
        leaves: list[bytes] = []
        add = leaves.append
        for row, hash_ in batch:
            if sha256(previous + row).digest() != hash_:
                break
            previous = hash_
            add(sha256(LEAF_PREFIX + row).digest())
        self._previous = previous
        return leaves

    async def _check_tree(self, batch: Sequence[RawRow], leaves: Sequence[bytes]) -> None:
        """Grow the tree, stopping at each size that was signed."""
        verdict, at = self.verdict, 0
        full: list[Tile] = []
        while at < len(leaves):
            signed = await self._walk.next_size(self._tree.size)
            taken = len(leaves) - at
            if signed is not None:
                taken = min(taken, signed - self._tree.size)
            if verdict.uncovered_since is None:
                self._note_time(batch[at][0])
            full += self._tree.extend(leaves[at : at + taken])
            at += taken
            if self._tree.size == signed and await self._walk.fits(signed, self._tree.root()):
                verdict.uncovered_since = None
        await self._tiles.compare(full, batch)
        verdict.row_count += len(leaves)
        verdict.size = self._tree.size
        if leaves:
            verdict.position = position_in(batch[len(leaves) - 1][0])

    def _note_time(self, row: bytes) -> None:
        try:
            self.verdict.uncovered_since = time_in(row)
        except OverflowError:
            self.verdict.findings.append(bad_row(row, "its time is none that a clock can show"))

    async def _check_end(self, after: int, until: int) -> None:
        verdict = self.verdict
        await self._tiles.compare(self._tree.unfinished(), ())
        verdict.findings += self._tiles.missing(self._tree.size)
        verdict.findings += await self._walk.beyond(self._tree.size)
        count = await self._rows.count(after=after, until=until)
        if count != verdict.row_count:
            verdict.findings.append(
                Finding(text=f"{count - verdict.row_count} rows share a position or have none")
            )


def _leaf(row: bytes) -> bytes:
    return hashlib.sha256(LEAF_PREFIX + row).digest()
