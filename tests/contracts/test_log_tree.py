"""The LogTree and LogRows contracts, on the fakes and on PostgreSQL; positions have gaps."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import asyncpg
import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.log_rows import PostgresLogRows, rows_in
from contree.adapters.postgres.log_tree import PostgresLogTree, clear_tree
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.app.event_log import EventLog
from contree.app.proof.growth import bytes_of, grow
from contree.app.proof.log_rows import BEFORE_ALL, LogRows, OddRowError
from contree.app.proof.log_tree import EMPTY, LogTree, TreeState
from contree.app.proof.tree_reader import consistency_proof, inclusion_proofs, root_at
from contree.app.recorded_log import RecordedLog
from contree.domain.errors import ConflictError, UnavailableError
from contree.domain.log_row import leaf_hash
from contree.domain.merkle import is_consistent, root_of_inclusion
from contree.domain.tile_tree import Tile, TileName, TileTree
from contree.projections import ALL
from tests.fakes.event_log import FakeEventLog
from tests.fakes.log_rows import FakeLogRows
from tests.fakes.log_tree import FakeLogTree
from tests.fakes.recorded_log import FakeRecordedLog
from tests.support.histories import History

SKIP = "SELECT nextval(pg_get_serial_sequence('stored_events', 'notification_id'))"


@dataclass(frozen=True)
class Sides:
    log: EventLog
    recorded: RecordedLog
    rows: LogRows
    tree: LogTree
    pool: asyncpg.Pool | None = None
    owner: str = ""


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def sides(request: pytest.FixtureRequest) -> Sides:
    if request.param == "fake":
        log = FakeEventLog()
        recorded = FakeRecordedLog(log, step=2)
        return Sides(log, recorded, FakeLogRows(recorded, batch_rows=7), FakeLogTree(recorded))
    pool = request.getfixturevalue("postgres_pool")
    return Sides(
        PostgresEventLog(pool, ALL),
        PostgresRecordedLog(pool, request.getfixturevalue("listener")),
        PostgresLogRows(pool, batch_rows=7, count_rows=5),
        PostgresLogTree(pool),
        pool,
        request.getfixturevalue("postgres_dsn"),
    )


async def append(sides: Sides, steps: int, *, seed: int) -> None:
    for number, touched in enumerate(History(seed).steps(steps)):
        await sides.log.append(*touched)
        if number % 10 == 5 and sides.owner:
            owner = await asyncpg.connect(sides.owner)
            await owner.execute(SKIP)  # a position that is never used
            await owner.close()


async def test_rows_are_the_bytes_of_the_events(sides: Sides) -> None:
    await append(sides, 40, seed=1)
    events = await sides.recorded.read(after=0, limit=1000)
    head = await sides.recorded.head()
    rows = [row async for batch in sides.rows.stream(after=BEFORE_ALL, until=head) for row in batch]
    assert rows == [(bytes_of(event), event.hash) for event in events]
    assert await sides.rows.count(after=BEFORE_ALL, until=head) == len(rows)

    third, ninth = events[2], events[8]
    between = [
        batch async for batch in sides.rows.stream(after=third.position, until=ninth.position)
    ]
    assert [row for batch in between for row in batch] == rows[3:9]
    assert await sides.rows.count(after=third.position, until=ninth.position) == 6
    assert await sides.rows.hash_at(ninth.position) == (ninth.position, ninth.hash)
    assert await sides.rows.hash_at(0) is None

    wanted = {events[3].aggregate_id, events[20].aggregate_id}
    of_them = [event for event in events if event.aggregate_id in wanted]
    assert await sides.rows.of_aggregates(wanted, limit=1000) == of_them
    assert await sides.rows.of_aggregates(wanted, limit=1) == of_them[:1]


async def test_the_tree_grows_with_the_log_and_proves_every_event(sides: Sides) -> None:
    assert await sides.tree.state() == EMPTY
    assert await grow(sides.recorded, sides.tree) == EMPTY
    await append(sides, 200, seed=2)
    older = await grow(sides.recorded, sides.tree)
    older_root = await root_at(sides.tree, older.size)
    await append(sides, 150, seed=3)
    newer = await grow(sides.recorded, sides.tree)
    assert await grow(sides.recorded, sides.tree) == newer == await sides.tree.state()

    events = await sides.recorded.read(after=0, limit=10_000)
    assert newer == TreeState(size=len(events), position=events[-1].position, hash=events[-1].hash)
    assert newer.size > 256 + 1, "the history must fill a tile"
    leaves = [leaf_hash(bytes_of(event)) for event in events]
    whole = TileTree()
    whole.extend(leaves)
    root = await root_at(sides.tree, newer.size)
    assert root == whole.root()

    proofs = await inclusion_proofs(sides.tree, range(newer.size), newer.size)
    for leaf, path in proofs.items():
        assert root_of_inclusion(leaves[leaf], leaf, newer.size, path) == root
    path = await consistency_proof(sides.tree, older.size, newer.size)
    assert is_consistent(older.size, older_root, newer.size, root, path)


async def test_positions_and_leaves_lead_to_each_other(sides: Sides) -> None:
    await append(sides, 300, seed=4)
    await grow(sides.recorded, sides.tree)
    await append(sides, 5, seed=5)  # beyond the tree
    events = await sides.recorded.read(after=0, limit=10_000)
    for leaf in [*random.Random(1).sample(range(len(events)), 20), 0, 255, 256, len(events) - 1]:
        position = events[leaf].position
        assert await sides.tree.leaves_before(position) == leaf
        assert await sides.tree.leaves_before(position + 1) == leaf + 1
    assert await sides.tree.leaves_before(0) == 0
    assert await sides.tree.leaves_before(2**62) == len(events)


async def test_whoever_does_not_know_where_the_tree_is_writes_nothing(sides: Sides) -> None:
    await append(sides, 5, seed=6)
    state = await grow(sides.recorded, sides.tree)
    tile = Tile(TileName(0, 0), b"x" * 32)
    after = TreeState(size=1, position=1, hash=b"h")
    for before in (EMPTY, TreeState(size=state.size, position=state.position, hash=b"other")):
        with pytest.raises(ConflictError):
            await sides.tree.append(before=before, after=after, tiles=[tile], positions=[1])
    assert await sides.tree.state() == state
    assert (await sides.tree.tiles([tile.name]))[tile.name].hashes[:32] != tile.hashes


async def test_of_many_that_grow_the_tree_at_once_none_spoils_it(sides: Sides) -> None:
    await append(sides, 150, seed=7)

    async def keep_growing() -> None:
        for _ in range(5):
            try:
                await grow(sides.recorded, sides.tree)
            except ConflictError:
                await asyncio.sleep(0)

    async def keep_appending() -> None:
        for touched in History(8).steps(60):
            await sides.log.append(*touched)

    await asyncio.gather(keep_appending(), *(keep_growing() for _ in range(4)))
    state = await grow(sides.recorded, sides.tree)
    events = await sides.recorded.read(after=0, limit=10_000)
    whole = TileTree()
    whole.extend([leaf_hash(bytes_of(event)) for event in events])
    assert state.size == len(events)
    assert await root_at(sides.tree, state.size) == whole.root()


async def test_copies_of_checkpoints(sides: Sides) -> None:
    assert await sides.tree.newest_note() is None
    for size in (3, 20, 7):
        await sides.tree.keep_note(size, b"note \xc3\xbc %d\n" % size)
    await sides.tree.keep_note(7, b"another\n")
    assert await sides.tree.newest_note() == (20, b"note \xc3\xbc 20\n")
    assert list(await sides.tree.note_sizes()) == [3, 7, 20]


@pytest.mark.postgres
async def test_an_owner_clears_the_tree_and_it_grows_again(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    tree, recorded = PostgresLogTree(postgres_pool), PostgresRecordedLog(postgres_pool, listener)
    for touched in History(9).steps(20):
        await PostgresEventLog(postgres_pool, ALL).append(*touched)
    state = await grow(recorded, tree)
    root = await root_at(tree, state.size)
    owner = await asyncpg.connect(postgres_dsn)
    await clear_tree(owner)
    await owner.close()
    assert await tree.state() == EMPTY
    assert await grow(recorded, tree) == state
    assert await root_at(tree, state.size) == root


@pytest.mark.postgres
@pytest.mark.parametrize("column", ["originator_id", "recorded_at", "topic", "state", "hash"])
async def test_a_row_with_a_value_missing_is_named(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, column: str
) -> None:
    """An owner can take the table's demands away; the layout of what is sent is then another."""
    for touched in History(10).steps(5):
        await PostgresEventLog(postgres_pool, ALL).append(*touched)
    owner = await asyncpg.connect(postgres_dsn)
    await owner.execute(
        "ALTER TABLE stored_events DISABLE TRIGGER USER;"
        "ALTER TABLE stored_events DROP CONSTRAINT stored_events_pkey;"
        f"ALTER TABLE stored_events ALTER COLUMN {column} DROP NOT NULL;"
        f"UPDATE stored_events SET {column} = NULL WHERE notification_id = 3"
    )
    await owner.close()
    with pytest.raises(OddRowError, match="after position 2"):
        async for _ in PostgresLogRows(postgres_pool).stream(after=0, until=100):
            pass


@pytest.mark.parametrize("data", [b"", b"PGCOPY", b"PGCOPY\n\xff\r\n\0" + bytes(8)])
def test_a_copy_that_broke_off_is_no_end_of_the_log(data: bytes) -> None:
    with pytest.raises(UnavailableError, match="broke off"):
        rows_in(data)
