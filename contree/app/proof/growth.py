"""Adds to the tree what the log has more than it, checking the chain on the way."""

from __future__ import annotations

from collections.abc import Sequence

from contree.app.proof.log_tree import LogTree, TreeState
from contree.app.proof.tree_reader import TreeDamagedError
from contree.app.recorded_log import RecordedEvent, RecordedLog
from contree.domain.errors import ContreeError
from contree.domain.log_row import chain_hash, leaf_hash, row_bytes
from contree.domain.tile_tree import TileTree, unfinished_tiles

BATCH_EVENTS = 5000


class LogAlteredError(ContreeError):
    """The log is not what was signed before, or its chain is broken: nothing is signed."""

    code = "log_altered"


def bytes_of(event: RecordedEvent) -> bytes:
    """The bytes of an event that hashes cover. Raises LogAlteredError."""
    if event.recorded_at.tzinfo is None:  # PostgreSQL's `infinity`, which has no zone
        raise LogAlteredError(f"the event at position {event.position} has no time")
    return row_bytes(
        position=event.position,
        aggregate_id=event.aggregate_id,
        version=event.version,
        recorded_at=event.recorded_at,
        topic=event.topic,
        state=event.state,
    )


async def grow(recorded: RecordedLog, stored: LogTree) -> TreeState:
    """Grow the tree to the end of the log as it is when called; return how far it is then.

    Raises LogAlteredError when the log does not go on from the tree, TreeDamagedError when tiles
    are missing, ConflictError when another process does the same, UnavailableError.
    """
    state, head = await stored.state(), await recorded.head()
    try:
        tiles = await stored.tiles(unfinished_tiles(state.size).keys())
        tree = TileTree.resumed(state.size, tiles)
    except ValueError as error:
        raise TreeDamagedError(f"{error}: run `contreed audit rebuild`") from error
    if head < state.position:
        raise LogAlteredError(
            f"the log ends at position {head}, its tree at {state.position}: events are missing"
        )
    while state.position < head:
        events = await recorded.read(after=state.position, limit=BATCH_EVENTS)
        if not events:
            raise LogAlteredError(f"the event at position {head} is gone")
        after, leaves = _followed(state, events)
        full = tree.extend(leaves)
        await stored.append(
            before=state,
            after=after,
            tiles=[*full, *tree.unfinished()],
            positions=[event.position for event in events],
        )
        state = after
    return state


def _followed(state: TreeState, events: Sequence[RecordedEvent]) -> tuple[TreeState, list[bytes]]:
    """The state after `events`, whose chain is checked, and their leaves."""
    hash_ = state.hash
    leaves: list[bytes] = []
    for event in events:
        row = bytes_of(event)
        if chain_hash(hash_, row) != event.hash:
            raise LogAlteredError(
                f"the event at position {event.position} does not follow from the one before it"
            )
        hash_ = event.hash
        leaves.append(leaf_hash(row))
    size = state.size + len(events)
    return TreeState(size=size, position=events[-1].position, hash=hash_), leaves
