"""Everything that the owner of a database can do to the log, done; and what a verification says.

The owner takes the triggers away first, and mostly also recomputes what is derived: with the chain
made anew, and the stored tree, only the checkpoints outside still know.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import re
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from contree.adapters.blobs.checkpoint_directory import DirectoryCheckpointStore
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.log_rows import PostgresLogRows
from contree.adapters.postgres.log_tree import PostgresLogTree, clear_tree
from contree.adapters.postgres.pool import open_pool
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.adapters.system.note_keys import is_signature
from contree.app.proof.checkpoints import Checkpoints
from contree.app.proof.growth import LogAlteredError, grow
from contree.app.proof.verify import Progress, Verdict, Verify
from contree.domain.errors import InvalidFieldError
from contree.domain.tile_tree import TileName, split
from contree.projections import ALL
from tests.fakes.clock import FakeClock
from tests.support.histories import History
from tests.support.postgres import TEMPLATE, dsn_for, execute
from tests.support.proofs import SeededSigner

pytestmark = pytest.mark.postgres

ORIGINAL, COPY = "tampering_original", "tampering_copy"

DISARM = "ALTER TABLE stored_events DISABLE TRIGGER USER"
RECHAIN = """
DO $$
DECLARE r record; previous bytea := '';
BEGIN
    FOR r IN SELECT * FROM stored_events ORDER BY notification_id LOOP
        previous := sha256(previous || int8send(r.notification_id) || uuid_send(r.originator_id)
            || int8send(r.originator_version) || timestamptz_send(r.recorded_at)
            || int4send(octet_length(convert_to(r.topic, 'UTF8'))) || convert_to(r.topic, 'UTF8')
            || int4send(octet_length(r.state)) || r.state);
        UPDATE stored_events SET hash = previous WHERE notification_id = r.notification_id;
    END LOOP;
END $$
"""
PUT_IN = (
    "INSERT INTO stored_events (originator_id, originator_version, topic, state, recorded_at, "
    "hash, notification_id) OVERRIDING SYSTEM VALUE "
    "SELECT gen_random_uuid(), 1, topic, state, recorded_at, sha256('x'), {at} "
    "FROM stored_events WHERE notification_id = 50"
)
SWAP = """
UPDATE stored_events AS a SET (originator_id, originator_version, topic, state, recorded_at) =
    (b.originator_id, -b.originator_version, b.topic, b.state, b.recorded_at)
    FROM stored_events AS b
    WHERE (a.notification_id, b.notification_id) IN ((100, 180), (180, 100));
UPDATE stored_events SET originator_version = abs(originator_version)
"""
EDITS = {
    "state": "UPDATE stored_events SET state = state || ' ' WHERE notification_id = 100",
    "recorded_at": (
        "UPDATE stored_events SET recorded_at = recorded_at - interval '1 microsecond' "
        "WHERE notification_id = 100"
    ),
    # A time that no date of ours can hold.
    "infinity": "UPDATE stored_events SET recorded_at = 'infinity' WHERE notification_id = 100",
    "topic": "UPDATE stored_events SET topic = topic || '2' WHERE notification_id = 100",
    "originator": (
        "UPDATE stored_events SET originator_id = gen_random_uuid() WHERE notification_id = 100"
    ),
    "version": (
        "UPDATE stored_events SET originator_version = originator_version + 900 "
        "WHERE notification_id = 100"
    ),
    "swapped": SWAP,
    "removed": "DELETE FROM stored_events WHERE notification_id BETWEEN 100 AND 102",
    # 401 is the position after one that stays unused.
    "put in": PUT_IN.format(at=401),
}
FIRST_BAD = {"removed": 103, "put in": 401}


@dataclass
class Deployment:
    """A log of some 600 events, three checkpoints over it, the owner's connection, the key."""

    owner: asyncpg.Connection
    pool: asyncpg.Pool
    recorded: PostgresRecordedLog
    tree: PostgresLogTree
    store: DirectoryCheckpointStore
    directory: Path
    signer: SeededSigner
    history: History

    async def append(self, steps: int) -> None:
        await self.owner.execute("ALTER TABLE stored_events ENABLE ALWAYS TRIGGER b_chain")
        for _ in range(steps):
            await PostgresEventLog(self.pool, ALL).append(*self.history.step())
        await self.owner.execute(DISARM)

    def checkpoints(self, signer: SeededSigner | None = None) -> Checkpoints:
        return Checkpoints(
            recorded=self.recorded,
            tree=self.tree,
            store=self.store,
            signer=signer or self.signer,
            check=is_signature,
            clock=FakeClock(),
            interval_s=3600,
        )

    async def verify(
        self, *, after: int | None = None, progress: Progress | None = None
    ) -> Verdict:
        return await Verify(
            recorded=self.recorded,
            rows=PostgresLogRows(self.pool, batch_rows=90),
            tree=self.tree,
            store=self.store,
            keys=[self.signer.key],
            check=is_signature,
        ).run(after=after, progress=progress)

    async def retree(self) -> None:
        """Make the stored tree again from what the rows are now."""
        await clear_tree(self.owner)
        await grow(self.recorded, self.tree)

    @property
    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir())


@asynccontextmanager
async def opened(dsn: str, directory: Path, history: History) -> AsyncIterator[Deployment]:
    pool = await open_pool(dsn)
    listener = PostgresListener(dsn)
    owner = await asyncpg.connect(dsn)
    yield Deployment(
        owner,
        pool,
        PostgresRecordedLog(pool, listener),
        PostgresLogTree(pool),
        DirectoryCheckpointStore(directory),
        directory,
        SeededSigner(),
        history,
    )
    await owner.close()
    await listener.aclose()
    await pool.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def original(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Path, History]]:
    """The log that each test gets a copy of: a database to copy, its checkpoints, its history."""
    await execute(postgres_server, f"CREATE DATABASE {ORIGINAL} TEMPLATE {TEMPLATE}")
    directory = tmp_path_factory.mktemp("original") / "checkpoints"
    history = History(31)
    async with opened(dsn_for(postgres_server, ORIGINAL), directory, history) as made:
        await PostgresEventLog(made.pool, ALL).append(*history.aggregates.values())
        while (at := await made.recorded.head()) < 400:
            await made.append(1)
        await made.owner.execute(
            "SELECT setval(pg_get_serial_sequence('stored_events', 'notification_id'), $1)", at + 9
        )
        for _ in range(3):
            await made.append(40)
            await made.checkpoints().advance()
        await made.owner.execute(DISARM)
    yield directory, history
    await execute(postgres_server, f"DROP DATABASE {ORIGINAL} WITH (FORCE)")


@pytest_asyncio.fixture(loop_scope="session")
async def deployment(
    postgres_server: str, original: tuple[Path, History], tmp_path: Path
) -> AsyncIterator[Deployment]:
    directory, history = original
    await execute(postgres_server, f"CREATE DATABASE {COPY} TEMPLATE {ORIGINAL}")
    shutil.copytree(directory, tmp_path / "checkpoints")
    dsn = dsn_for(postgres_server, COPY)
    async with opened(dsn, tmp_path / "checkpoints", copy.deepcopy(history)) as made:
        yield made
    await execute(postgres_server, f"DROP DATABASE {COPY} WITH (FORCE)")


def texts(verdict: Verdict) -> str:
    return "\n".join(map(str, verdict.findings))


async def test_an_untouched_log_is_right(deployment: Deployment) -> None:
    verdict = await deployment.verify()
    assert verdict.findings == []
    assert verdict.checkpoint_count == 3
    assert verdict.covered == verdict.size == verdict.row_count
    assert verdict.uncovered_since is None
    await deployment.append(3)
    verdict = await deployment.verify()
    assert verdict.findings == []
    assert verdict.covered < verdict.size
    assert verdict.uncovered_since is not None


async def test_appends_and_checkpoints_do_not_wait_for_each_other(deployment: Deployment) -> None:
    """Each checkpoint is of the log as it was at some moment, and the last one of all of it."""
    done = asyncio.Event()

    async def sign() -> list[int]:
        sizes = []
        while not done.is_set():
            newest = await deployment.checkpoints().advance()
            assert newest is not None
            sizes.append(newest.checkpoint.size)
        return sizes

    signing = asyncio.create_task(sign())
    for _ in range(20):
        await deployment.append(3)
    done.set()
    sizes = await signing
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 2
    await deployment.checkpoints().advance()
    verdict = await deployment.verify()
    assert (verdict.findings, verdict.covered) == ([], verdict.size)
    assert verdict.checkpoint_count >= 3 + len(set(sizes)) - 1


async def test_progress_is_told_on_the_way(deployment: Deployment) -> None:
    told: list[tuple[int, int]] = []
    verdict = await deployment.verify(progress=lambda *at: told.append(at))
    assert told == sorted(told)
    assert len(told) > 3
    assert told[-1] == (verdict.row_count, verdict.position)
    told.clear()
    await deployment.owner.execute(EDITS["state"])
    assert (await deployment.verify(progress=lambda *at: told.append(at))).findings
    assert all(position < 100 for _, position in told)


@pytest.mark.parametrize("edit", EDITS)
async def test_an_edit_is_found_at_its_row(deployment: Deployment, edit: str) -> None:
    await deployment.owner.execute(EDITS[edit])
    verdict = await deployment.verify()
    assert verdict.findings[0].position == FIRST_BAD.get(edit, 100)
    row = await deployment.owner.fetchrow(
        "SELECT originator_id FROM stored_events WHERE notification_id = $1",
        verdict.findings[0].position,
    )
    assert str(verdict.findings[0].aggregate_id) == str(row["originator_id"])


async def test_a_row_without_a_time_is_found_also_where_nothing_is_signed(
    deployment: Deployment,
) -> None:
    size = (await deployment.verify()).size
    await deployment.append(3)
    position = await deployment.owner.fetchval(
        "UPDATE stored_events SET recorded_at = 'infinity' WHERE notification_id = (SELECT "
        "notification_id FROM stored_events ORDER BY notification_id OFFSET $1 LIMIT 1) "
        "RETURNING notification_id",
        size,
    )
    await deployment.owner.execute(RECHAIN)
    assert (await deployment.verify()).findings[0].position == position
    with pytest.raises(LogAlteredError, match="has no time"):
        await deployment.checkpoints().advance()


async def test_removed_rows_are_counted(deployment: Deployment) -> None:
    await deployment.owner.execute(EDITS["removed"])
    assert "3 between are missing" in texts(await deployment.verify())


@pytest.mark.parametrize("edit", EDITS)
async def test_a_recomputed_chain_does_not_hide_it(deployment: Deployment, edit: str) -> None:
    """The tree still knows which row it was."""
    await deployment.owner.execute(EDITS[edit])
    await deployment.owner.execute(RECHAIN)
    verdict = await deployment.verify()
    assert verdict.findings[0].position == FIRST_BAD.get(edit, 100)
    assert "are not those of the checkpoint" in texts(verdict)


@pytest.mark.parametrize("edit", EDITS)
async def test_a_recomputed_tree_does_not_hide_it_either(deployment: Deployment, edit: str) -> None:
    """Now only the checkpoints outside know: that it is, and between which of them."""
    await deployment.owner.execute(EDITS[edit])
    await deployment.owner.execute(RECHAIN)
    with contextlib.nullcontext() if edit != "infinity" else pytest.raises(LogAlteredError):
        await deployment.retree()
    verdict = await deployment.verify()
    assert "are not those of the checkpoint" in texts(verdict)
    with pytest.raises(LogAlteredError):
        await deployment.checkpoints().advance()
    assert len(deployment.files) == 3


@pytest.mark.parametrize("recompute", [False, True])
async def test_a_cut_off_end_is_found(deployment: Deployment, recompute: bool) -> None:
    await deployment.owner.execute(
        "DELETE FROM stored_events WHERE notification_id > "
        "(SELECT max(notification_id) - 2 FROM stored_events)"
    )
    if recompute:
        await deployment.retree()
    assert "the end of the log is missing" in texts(await deployment.verify())
    with pytest.raises(LogAlteredError, match="missing"):
        await deployment.checkpoints().advance()


async def test_an_end_that_was_in_the_tree_only_is_missed_too(deployment: Deployment) -> None:
    await deployment.append(2)
    await grow(deployment.recorded, deployment.tree)
    await deployment.owner.execute(
        "DELETE FROM stored_events WHERE notification_id = "
        "(SELECT max(notification_id) FROM stored_events)"
    )
    assert "the last 1 are missing" in texts(await deployment.verify())


async def test_an_older_copy_that_went_on_by_itself_is_found(
    deployment: Deployment,
) -> None:
    """The database is put back to before the last checkpoints, and the service goes on."""
    size = int(deployment.files[0].name.split(".")[0])
    keep = await deployment.owner.fetchval(
        "SELECT notification_id FROM stored_events ORDER BY notification_id OFFSET $1 LIMIT 1",
        size - 1,
    )
    await deployment.owner.execute(f"DELETE FROM stored_events WHERE notification_id > {keep}")
    await deployment.owner.execute(f"DELETE FROM log_checkpoints WHERE size > {size}")
    await deployment.retree()
    assert "older copy" in texts(await deployment.verify())
    with pytest.raises(LogAlteredError, match="older copy"):
        await deployment.checkpoints().advance()


async def test_rows_at_a_position_twice_or_before_all_are_found(deployment: Deployment) -> None:
    await deployment.owner.execute("DROP INDEX stored_events_notification_id_idx")
    await deployment.owner.execute(PUT_IN.format(at=-5))
    verdict = await deployment.verify()
    assert verdict.findings[0].position == -5
    await deployment.owner.execute("DELETE FROM stored_events WHERE notification_id = -5")
    await deployment.owner.execute(PUT_IN.format(at=90))  # at the end of a batch
    verdict = await deployment.verify()
    assert verdict.findings


async def test_an_edited_hash_is_found(deployment: Deployment) -> None:
    await deployment.owner.execute(
        "UPDATE stored_events SET hash = sha256('x') WHERE notification_id = 100"
    )
    verdict = await deployment.verify()
    assert verdict.findings[0].position == 100
    assert "its hash was changed" in texts(verdict)


@pytest.mark.parametrize(("level", "text"), [(0, "tile 0/0"), (1, "tile 1/0")])
async def test_an_edited_tile_is_found_and_the_rows_are_cleared(
    deployment: Deployment, level: int, text: str
) -> None:
    tile = (await deployment.tree.tiles([TileName(level, 0)]))[TileName(level, 0)]
    hashes = split(tile.hashes)
    hashes[-1] = bytes(32)
    await deployment.owner.execute(
        "UPDATE log_tiles SET hashes = $1 WHERE level = $2 AND index = 0", b"".join(hashes), level
    )
    found = texts(await deployment.verify())
    assert text in found
    assert "the rows are right" in found
    await deployment.retree()
    assert (await deployment.verify()).findings == []


async def test_a_removed_tile_is_found(deployment: Deployment) -> None:
    await deployment.owner.execute("DELETE FROM log_tiles WHERE level = 0 AND index = 1")
    assert "tile 0/1 of the stored tree is missing" in texts(await deployment.verify())


def edited(note: bytes) -> bytes:
    """The same note over a root that differs in its first character."""
    lines = note.split(b"\n")
    lines[2] = (b"A" if lines[2][:1] != b"A" else b"B") + lines[2][1:]
    return b"\n".join(lines)


FILES: dict[str, tuple[Callable[[Sequence[Path]], object], str]] = {
    "root": (lambda f: f[1].write_bytes(edited(f[1].read_bytes())), "signature"),
    "cut off": (lambda f: f[1].write_bytes(f[1].read_bytes()[:-20]), "ends before|base64"),
    "empty": (lambda f: f[1].write_bytes(b""), "ends before"),
    "not a note": (lambda f: f[1].write_bytes(b"\xff" * 900), "UTF-8"),
    "removed": (lambda f: f[1].unlink(), "not in the store"),
    "newest removed": (lambda f: f[2].unlink(), "not in the store"),
    "under another's name": (lambda f: f[1].write_bytes(f[0].read_bytes()), "stands under"),
}


@pytest.mark.parametrize("change", FILES)
async def test_a_changed_or_removed_checkpoint_is_found(
    deployment: Deployment, change: str
) -> None:
    act, expected = FILES[change]
    act(deployment.files)
    verdict = await deployment.verify()
    assert len(verdict.findings) == 1
    assert re.search(expected, texts(verdict))
    assert verdict.checkpoint_count == 2


async def test_a_checkpoint_of_another_key_is_found(deployment: Deployment) -> None:
    size = int(deployment.files[2].name.split(".")[0])
    deployment.files[2].unlink()
    await deployment.owner.execute(f"DELETE FROM log_checkpoints WHERE size >= {size}")
    deployment.files[0].rename(deployment.directory / "0")
    deployment.files[-1].rename(deployment.directory / "1")
    await deployment.owner.execute("DELETE FROM log_checkpoints")
    stranger = SeededSigner("stranger")
    assert await deployment.checkpoints(stranger).advance() is not None
    verdict = await deployment.verify()
    assert "not by a key that we know" in texts(verdict)
    assert verdict.checkpoint_count == 0


async def test_a_removed_newest_checkpoint_is_put_back_by_the_signer(
    deployment: Deployment,
) -> None:
    note = deployment.files[2].read_bytes()
    deployment.files[2].unlink()
    await deployment.append(1)
    await deployment.checkpoints().advance()
    assert deployment.files[2].read_bytes() == note
    verdict = await deployment.verify()
    assert (verdict.findings, verdict.checkpoint_count) == ([], 4)


async def test_any_start_checks_the_rest(deployment: Deployment) -> None:
    whole = await deployment.verify()
    for after in (1, 99, 255, 256, 399, whole.position - 1):
        verdict = await deployment.verify(after=after)
        assert verdict.findings == []
        assert verdict.row_count < whole.row_count
        assert verdict.covered == whole.covered
    nothing = await deployment.verify(after=whole.position)
    assert (nothing.row_count, nothing.findings) == (0, [])
    await deployment.owner.execute(EDITS["state"])
    await deployment.owner.execute(RECHAIN)
    assert (await deployment.verify(after=99)).findings[0].position == 100
    assert (await deployment.verify(after=101)).findings == []


@pytest.mark.parametrize("after", [-1, 10**9, 2**70])
async def test_a_start_outside_the_log_is_refused(deployment: Deployment, after: int) -> None:
    with pytest.raises(InvalidFieldError, match="after"):
        await deployment.verify(after=after)


async def test_another_key_with_the_same_file_name_signs_nothing(deployment: Deployment) -> None:
    await deployment.append(1)
    with pytest.raises(LogAlteredError, match="same key file"):
        await deployment.checkpoints(SeededSigner("stranger")).advance()
    assert len(deployment.files) == 3
