"""The part of the composition root that wires the proving of the log: keys, tree, checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from contree.adapters.blobs.checkpoint_directory import DirectoryCheckpointStore
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.log_rows import PostgresLogRows
from contree.adapters.postgres.log_tree import PostgresLogTree, clear_tree
from contree.adapters.postgres.pool import PostgresDatabase, connect_as_owner, open_pool
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.adapters.system.clock import SystemClock
from contree.adapters.system.note_keys import FileNoteSigner, SigningKeyError, is_signature
from contree.app.clock import Clock
from contree.app.proof.bundle import Proven, check_bundle
from contree.app.proof.checkpoint_store import CheckpointStore
from contree.app.proof.checkpoints import Checkpoints
from contree.app.proof.consistency import (
    Consistency,
    check_consistency,
    is_consistency,
    prove_consistency,
)
from contree.app.proof.export import LINE_BYTES_MAX, Export, check_export, is_export
from contree.app.proof.growth import grow
from contree.app.proof.log_rows import LogRows
from contree.app.proof.log_tree import LogTree
from contree.app.proof.note_keys import NoteSigner, SignatureCheck
from contree.app.proof.prove import Prove
from contree.app.proof.signed import SignedCheckpoint, opened
from contree.app.proof.verify import Verify
from contree.app.recorded_log import RecordedLog
from contree.app.short_ids import KnownIds
from contree.bootstrap.stores import bucket_and_prefix
from contree.config import Settings
from contree.domain.errors import InvalidFieldError, TooEarlyError
from contree.domain.note import NOTE_BYTES_MAX, VerifierKey
from contree.projections import SqlKnownIds

BUNDLE_BYTES_MAX = 1024**3
NEAR_SIZES = 3
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
    known_ids: KnownIds

    def checkpoints(self, *, make_key: bool = False) -> Checkpoints:
        """What grows the tree over the log and signs it. Raises SigningKeyError without a key."""
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

    async def grow(self) -> int:
        """Grow the tree to the end of the log; return over how many events it is then."""
        return (await grow(self.recorded, self.tree)).size

    async def newest(self, keys: Sequence[VerifierKey]) -> SignedCheckpoint:
        """A checkpoint of the whole log, signed now if the key is here; else the newest there is.

        `keys` are those that are believed then. Raises ContreeError when there is none.
        """
        try:
            checkpoints = self.checkpoints()
        except SigningKeyError as error:
            sizes = await self.store.sizes()
            if not sizes:
                raise TooEarlyError(f"no checkpoint was signed yet, and {error}") from error
            return opened(await self.store.read(sizes[-1]), keys, CHECK)
        newest = await checkpoints.advance_in_turn()
        if newest is None:
            raise TooEarlyError("the log is empty: there is nothing to prove")
        return newest

    async def over(self, size: int, keys: Sequence[VerifierKey], *, field: str) -> SignedCheckpoint:
        """The stored checkpoint over so many events. Raises InvalidFieldError naming `field`."""
        sizes = await self.store.sizes()
        if size not in sizes:
            near = sorted(sizes, key=lambda other: abs(other - size))[:NEAR_SIZES]
            there = ", ".join(map(str, sorted(near))) or "none at all"
            raise InvalidFieldError(
                field, f"no checkpoint over {size} events is stored; there are, nearest: {there}"
            )
        return opened(await self.store.read(size), keys, CHECK)

    async def consistency(self, older: SignedCheckpoint, newer: SignedCheckpoint) -> Consistency:
        """What proves that the newer checkpoint's log goes on from the older one's."""
        return await prove_consistency(self.tree, older, newer)

    def prove(self, newest: SignedCheckpoint) -> Prove:
        """What makes bundles."""
        return Prove(rows=self.rows, tree=self.tree, newest=newest, check=CHECK)

    def export(self, newest: SignedCheckpoint) -> Export:
        """What writes runs of the log."""
        return Export(recorded=self.recorded, tree=self.tree, newest=newest)

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
            known_ids=SqlKnownIds(PostgresDatabase(pool)),
        )


@asynccontextmanager
async def proof_of(settings: Settings, url: str) -> AsyncIterator[Proof]:
    """Open only what proving needs, of the database of `url`. Raises UnavailableError."""
    pool = await open_pool(url)
    listener = PostgresListener(url)
    try:
        recorded = PostgresRecordedLog(pool, listener)
        async with open_proof(settings, pool, recorded=recorded, clock=SystemClock()) as proof:
            yield proof
    finally:
        await listener.aclose()
        await pool.close()


def check_file(path: Path, keys: Sequence[VerifierKey]) -> Proven:
    """What a file of `prove`, `export` or `consistency` proves.

    Raises InvalidFieldError saying what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            exported = is_export(file.readline(LINE_BYTES_MAX))
            file.seek(0)
            if exported:
                return check_export(file, keys=keys, check=CHECK)
            data = file.read(BUNDLE_BYTES_MAX)
            if is_consistency(data):
                return check_consistency(data, keys=keys, check=CHECK)
            return check_bundle(data, keys=keys, check=CHECK)
    except OSError as error:
        raise InvalidFieldError("BUNDLE", f"cannot read '{path}': {error}") from error


def checkpoint_in(path: Path, keys: Sequence[VerifierKey], *, field: str) -> SignedCheckpoint:
    """The checkpoint in a file. Raises InvalidFieldError, naming `field`, when it is none."""
    try:
        with path.open("rb") as file:
            return opened(file.read(NOTE_BYTES_MAX + 1), keys, CHECK)
    except OSError as error:
        raise InvalidFieldError(
            field, f"'{path}' is neither a number of events nor a checkpoint's file: {error}"
        ) from error
    except InvalidFieldError as error:
        raise InvalidFieldError(field, f"'{path}': {error}") from error


def verifier_keys(settings: Settings, texts: Sequence[str]) -> list[VerifierKey]:
    """The keys whose checkpoints are believed: those given, else this deployment's.

    Raises ContreeError when one cannot be read, or there is none.
    """
    if texts:
        return [VerifierKey.parse(text) for text in texts]
    return [note_signer(settings, make=False).key, *former_keys(settings)]


def key_path(settings: Settings) -> Path:
    """Where the private key is, or would be."""
    return settings.checkpoint_key or settings.data_dir / "keys" / "checkpoint.key"


def note_signer(settings: Settings, *, make: bool) -> NoteSigner:
    """The key that signs checkpoints, made when there is none and `make`. Raises ContreeError."""
    return FileNoteSigner(key_path(settings), name=settings.checkpoint_origin, make=make)


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
    bucket, prefix = bucket_and_prefix("checkpoints", place)
    # Only here: the SDK would add a fifth to the imports of every start.
    from contree.adapters.blobs.checkpoint_bucket import open_checkpoint_bucket
    from contree.adapters.blobs.s3_objects import S3Place

    async with open_checkpoint_bucket(S3Place(bucket=bucket, prefix=prefix, region=None)) as store:
        yield store
