"""The part of the composition root that wires the proving of the log: keys, tree, checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from contree.adapters.blobs.checkpoint_bucket import open_checkpoint_bucket
from contree.adapters.blobs.checkpoint_directory import DirectoryCheckpointStore
from contree.adapters.blobs.s3 import S3Place
from contree.adapters.postgres.log_rows import PostgresLogRows
from contree.adapters.postgres.log_tree import PostgresLogTree, clear_tree
from contree.adapters.postgres.pool import connect_as_owner
from contree.adapters.system.note_keys import FileNoteSigner, is_signature
from contree.app.checkpoint_store import CheckpointStore
from contree.app.clock import Clock
from contree.app.log_rows import LogRows
from contree.app.log_tree import LogTree
from contree.app.note_keys import NoteSigner, SignatureCheck
from contree.app.proof.checkpoints import Checkpoints
from contree.app.proof.verify import Verify
from contree.app.recorded_log import RecordedLog
from contree.config import Settings
from contree.domain.errors import InvalidFieldError
from contree.domain.note import VerifierKey

CHECK: SignatureCheck = is_signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What proving needs of a running deployment."""

    settings: Settings
    clock: Clock
    recorded: RecordedLog
    rows: LogRows
    tree: LogTree
    store: CheckpointStore

    def checkpoints(self, *, make_key: bool = True) -> Checkpoints:
        """What grows the tree over the log and signs it. Raises ContreeError without a key."""
        return Checkpoints(
            recorded=self.recorded,
            tree=self.tree,
            store=self.store,
            signer=note_signer(self.settings, make=make_key),
            former_keys=former_keys(self.settings),
            check=CHECK,
            clock=self.clock,
            interval_s=self.settings.checkpoint_interval,
        )

    def verify(self, keys: Sequence[VerifierKey]) -> Verify:
        """What checks the log against checkpoints of these keys."""
        return Verify(
            recorded=self.recorded,
            rows=self.rows,
            tree=self.tree,
            store=self.store,
            keys=keys,
            check=CHECK,
        )


@asynccontextmanager
async def open_proof(
    settings: Settings, pool: asyncpg.Pool, *, recorded: RecordedLog, clock: Clock
) -> AsyncIterator[Proof]:
    """Open the checkpoint store beside a database. Raises InvalidFieldError for no such place."""
    async with _checkpoint_store(settings) as store:
        yield Proof(
            settings=settings,
            clock=clock,
            recorded=recorded,
            rows=PostgresLogRows(pool),
            tree=PostgresLogTree(pool),
            store=store,
        )


def note_signer(settings: Settings, *, make: bool) -> NoteSigner:
    """The key that signs checkpoints, made when there is none and `make`. Raises ContreeError."""
    path = settings.checkpoint_key or settings.data_dir / "keys" / "checkpoint.key"
    return FileNoteSigner(path, name=settings.checkpoint_origin, make=make)


def former_keys(settings: Settings) -> list[VerifierKey]:
    """The keys that signed checkpoints before. Raises InvalidFieldError."""
    return [VerifierKey.parse(k) for k in (settings.checkpoint_former_keys or "").split(",") if k]


async def forget_tree(owner_url: str) -> None:
    """Remove the stored tree, which is then made again from the log. Raises UnavailableError."""
    connection = await connect_as_owner(owner_url)
    try:
        await clear_tree(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def _checkpoint_store(settings: Settings) -> AsyncIterator[CheckpointStore]:
    place = settings.checkpoints or str(settings.data_dir / "checkpoints")
    if not place.startswith("s3://"):
        yield DirectoryCheckpointStore(Path(place).expanduser().absolute())
        return
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    if not bucket:
        raise InvalidFieldError("checkpoints", f"'{place}' is not s3://BUCKET/PREFIX")
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    async with open_checkpoint_bucket(S3Place(bucket=bucket, prefix=prefix, region=None)) as store:
        yield store
