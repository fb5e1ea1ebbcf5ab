"""Walks over the stored checkpoints in the order of their sizes, beside a tree that grows.

Each is opened (note, key, signature, origin), must stand under its own size, not be earlier than
the one before, and have the root of the tree when that is as large. Those that were signed, by the
database's account, must all be there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from datetime import datetime
from typing import Self

from contree.app.proof.checkpoint_store import CheckpointStore
from contree.app.proof.findings import Finding
from contree.app.proof.log_tree import LogTree
from contree.app.proof.note_keys import SignatureCheck
from contree.app.proof.signed import opened
from contree.domain.checkpoint import Checkpoint
from contree.domain.errors import InvalidFieldError
from contree.domain.note import VerifierKey

_AT_ONCE = 32
"""How many notes are read ahead: from an object store each takes a while."""


class CheckpointWalk:
    """Made by `begin`.

    findings    what is wrong with checkpoints themselves
    misfit      the first one that is right in itself, but not of these rows
    good_count, covered, covered_at   of those that fit: how many, the last one's size and time
    """

    def __init__(
        self,
        store: CheckpointStore,
        sizes: Collection[int],
        keys: Collection[VerifierKey],
        check: SignatureCheck,
    ) -> None:
        self.findings: list[Finding] = []
        self.misfit: Finding | None = None
        self.good_count = 0
        self.covered = 0
        self.covered_at: datetime | None = None
        self._store = store
        self._sizes = deque(sizes)
        self._ahead: deque[Checkpoint] = deque()
        self._keys = keys
        self._check = check
        self._latest: datetime | None = None

    @classmethod
    async def begin(
        cls,
        store: CheckpointStore,
        tree: LogTree,
        *,
        keys: Collection[VerifierKey],
        check: SignatureCheck,
    ) -> Self:
        # In this order: one that is signed meanwhile is not taken for one that was removed.
        signed = await tree.note_sizes()
        sizes = await store.sizes()
        walk = cls(store, sizes, keys, check)
        there = set(sizes)
        walk.findings += [
            Finding(
                text=f"the checkpoint over {size} events was signed, but is not in the store: it "
                "was removed, or the store could not be reached since"
            )
            for size in signed
            if size not in there
        ]
        return walk

    async def skip_to(self, size: int) -> None:
        """Leave out those over fewer than `size` events."""
        while self._sizes and self._sizes[0] < size:
            self._sizes.popleft()

    async def next_size(self, size: int) -> int | None:
        """The next size beyond `size` at which a root must fit, None without one."""
        while (checkpoint := await self._peek()) is not None:
            if checkpoint.size > size:
                return checkpoint.size
            self._ahead.popleft()
        return None

    async def fits(self, size: int, root: bytes) -> bool:
        """Whether the next checkpoint, over `size` events, has this root."""
        checkpoint = self._ahead.popleft()
        if checkpoint.root != root:
            if self.misfit is None:
                self.misfit = Finding(
                    text=f"events {self.covered + 1} to {size} of the log are not those of the "
                    f"checkpoint over {size} events{_of_time(checkpoint.at)}: at least one was "
                    "changed, and the chain recomputed"
                )
            return False
        self.good_count += 1
        self.covered, self.covered_at = size, checkpoint.at
        return True

    async def beyond(self, size: int) -> list[Finding]:
        """What the checkpoints over more than `size` events, all there are, come to."""
        if await self.next_size(size) is None:
            return []
        checkpoint = self._ahead[0]
        count = len(self._ahead) + len(self._sizes)
        return [
            Finding(
                text=f"{count} checkpoints cover more than the log's {size} events, the first "
                f"{checkpoint.size}{_of_time(checkpoint.at)}: the end of the log is missing, or "
                "the database is an older copy"
            )
        ]

    async def _peek(self) -> Checkpoint | None:
        while not self._ahead and self._sizes:
            sizes = [self._sizes.popleft() for _ in range(min(_AT_ONCE, len(self._sizes)))]
            notes = await asyncio.gather(*(self._store.read(size) for size in sizes))
            for size, note in zip(sizes, notes, strict=True):
                checkpoint = self._opened(size, note)
                if checkpoint is not None:
                    self._ahead.append(checkpoint)
        return self._ahead[0] if self._ahead else None

    def _opened(self, size: int, note: bytes) -> Checkpoint | None:
        try:
            checkpoint = opened(note, self._keys, self._check).checkpoint
        except InvalidFieldError as error:
            self.findings.append(Finding(text=f"the checkpoint over {size} events: {error}"))
            return None
        if checkpoint.size != size:
            self.findings.append(
                Finding(text=f"a checkpoint over {checkpoint.size} events stands under {size}")
            )
            return None
        if checkpoint.at is not None:
            if self._latest is not None and checkpoint.at < self._latest:
                self.findings.append(
                    Finding(text=f"the checkpoint over {size} events is older than one over fewer")
                )
            self._latest = checkpoint.at
        return checkpoint


def _of_time(at: datetime | None) -> str:
    return "" if at is None else f" of {at:%Y-%m-%d %H:%M:%S} UTC"
