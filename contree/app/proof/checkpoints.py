"""Grows the tree along the log and signs checkpoints of it: a duty of one worker of the fleet.

    advance    grow the tree to the end of the log, checking the chain → the newest checkpoint
               outside must be of this very log → sign when there is more than in it
    run        advance; wait for the interval; wait for more events; again

Nobody waits for this: appends go on when the store is away or full. What is then covered by no
checkpoint is said in the log, and covered by the next that gets through. It signs nothing that
does not continue what was signed before: a log that was changed or put back is reported, not
vouched for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import aclosing
from datetime import datetime

from contree.app.clock import Clock
from contree.app.proof.checkpoint_store import CheckpointExistsError, CheckpointStore
from contree.app.proof.growth import LogAlteredError, grow
from contree.app.proof.log_tree import LogTree, TreeState
from contree.app.proof.note_keys import NoteSigner, SignatureCheck
from contree.app.proof.signed import SignedCheckpoint, opened, signed
from contree.app.proof.tree_reader import TreeDamagedError, root_at
from contree.app.recorded_log import RecordedLog
from contree.domain.checkpoint import Checkpoint
from contree.domain.errors import (
    ConflictError,
    InvalidFieldError,
    StorageFullError,
    UnavailableError,
)
from contree.domain.note import VerifierKey

BATCH_EVENTS = 5000
ATTEMPTS, AGAIN_S = 20, 0.1
LAST_ONE_S = 5.0
"""How long the end of a worker may wait for a last checkpoint."""

log = logging.getLogger(__name__)


class Checkpoints:
    """Implements worker.duties.Duty. `former_keys`: whose checkpoints ours may go on from."""

    name = "checkpoints"

    def __init__(
        self,
        *,
        recorded: RecordedLog,
        tree: LogTree,
        store: CheckpointStore,
        signer: NoteSigner,
        former_keys: Collection[VerifierKey] = (),
        check: SignatureCheck,
        clock: Clock,
        interval_s: float,
    ) -> None:
        self._recorded = recorded
        self._tree = tree
        self._store = store
        self._signer = signer
        self._former_keys = former_keys
        self._check = check
        self._clock = clock
        self._interval_s = interval_s

    async def run(self) -> None:
        try:
            while True:
                done = await self._try_to_advance()
                await asyncio.sleep(self._interval_s)
                if done:
                    await self._more_than((await self._tree.state()).position)
        finally:
            await self._last_one()

    async def advance(self) -> SignedCheckpoint | None:
        """Return a checkpoint of the whole log as it was when called; None for an empty log.

        Raises LogAlteredError, StorageFullError, UnavailableError, ConflictError when another
        process does the same at this moment.
        """
        state = await grow(self._recorded, self._tree)
        newest = await self._newest()
        if newest is not None:
            await self._must_continue(newest.checkpoint, state)
            if newest.checkpoint.size == state.size:
                return newest
        if state.size == 0:
            return None
        checkpoint = Checkpoint(
            origin=self._signer.key.name,
            size=state.size,
            root=await root_at(self._tree, state.size),
            at=self._time_after(newest),
        )
        made = await self._publish(state.size, signed(checkpoint, self._signer))
        await self._must_continue(made.checkpoint, state)
        await self._tree.keep_note(state.size, made.note)
        return made

    async def advance_in_turn(self) -> SignedCheckpoint | None:
        """As `advance`, where another process may do the same: what that one leaves is taken up."""
        for _ in range(ATTEMPTS):
            try:
                return await self.advance()
            except ConflictError:
                await asyncio.sleep(AGAIN_S)
        return await self.advance()

    async def _last_one(self) -> None:
        """Cover also what the end of a worker recorded; never in the way of that end."""
        try:
            async with asyncio.timeout(LAST_ONE_S):
                await self._try_to_advance()
        except Exception:
            log.exception("no checkpoint was signed at the end")

    async def _try_to_advance(self) -> bool:
        """Advance, and say in the log what stands in the way; return whether all is covered."""
        try:
            await self.advance()
        except (LogAlteredError, TreeDamagedError, CheckpointExistsError) as error:
            log.error("no checkpoint is signed: %s", error)  # noqa: TRY400 - the text says it all
        except (UnavailableError, StorageFullError) as error:
            log.warning("no checkpoint was stored, events go on without: %s", error)
        except ConflictError:
            log.debug("another process advances the tree")
        else:
            return True
        return False

    async def _more_than(self, position: int) -> None:
        async with aclosing(self._recorded.follow(after=position, limit=1)) as events:
            await anext(events)

    async def _newest(self) -> SignedCheckpoint | None:
        """Read the newest checkpoint of the store, and see that store and database both have it.

        Only from the last one we know of on: a store may hold a great many.
        """
        copy = await self._tree.newest_note()
        sizes = await self._store.sizes(after=-1 if copy is None else copy[0] - 1)
        if copy is not None and copy[0] not in sizes:
            size, note = copy
            self._opened(note)
            await self._publish(size, note)
            log.warning("the checkpoint over %d events was not in the store, and is now", size)
            sizes = [size, *sizes]
        if not sizes:
            return None
        newest = self._opened(await self._store.read(sizes[-1]))
        if copy is None or sizes[-1] != copy[0]:
            await self._tree.keep_note(sizes[-1], newest.note)
        return newest

    async def _publish(self, size: int, note: bytes) -> SignedCheckpoint:
        """Put a note into the store; return the one that is there."""
        try:
            await self._store.put(size, note)
        except CheckpointExistsError:
            # Another process was first, with another time in it.
            note = await self._store.read(size)
        return self._opened(note)

    def _opened(self, note: bytes) -> SignedCheckpoint:
        try:
            return opened(note, [self._signer.key, *self._former_keys], self._check)
        except InvalidFieldError as error:
            raise LogAlteredError(
                f"the newest checkpoint is not believed: {error}. Every worker needs the same key "
                "file and origin; after a change of keys, the former key in its settings"
            ) from error

    async def _must_continue(self, newest: Checkpoint, state: TreeState) -> None:
        if newest.size > state.size:
            raise LogAlteredError(
                f"a checkpoint covers {newest.size} events, the log has {state.size}: events are "
                "missing, or the database is an older copy"
            )
        if await root_at(self._tree, newest.size) != newest.root:
            raise LogAlteredError(
                f"the log's first {newest.size} events are not those that were signed: "
                "`contreed audit verify` says where"
            )

    def _time_after(self, newest: SignedCheckpoint | None) -> datetime:
        """Now; never before the newest checkpoint, whatever was done to the clock."""
        now = self._clock.now().replace(microsecond=0)
        before = newest.checkpoint.at if newest is not None else None
        if before is not None and now < before:
            log.warning("the clock is behind the newest checkpoint (%s), which counts", before)
            return before
        return now
