"""What API, worker and command line share: pool, log, reads, stores, keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from contree import projections
from contree.adapters.layers.diff.comparer import StackComparer
from contree.adapters.layers.reading.comparison import IndexComparer
from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.removal import LayerRemovals
from contree.adapters.layers.search.image_search import LayerSearch
from contree.adapters.layers.shared import SharedLayers
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.postgres.content_index import PostgresContentIndex
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.guest_control import PostgresGuestControl
from contree.adapters.postgres.journal import PostgresJournal
from contree.adapters.postgres.journal_packs import PostgresJournalPacks
from contree.adapters.postgres.leadership import PostgresLeadership
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.moments import PostgresMoments
from contree.adapters.postgres.operation_news import PostgresOperationNews
from contree.adapters.postgres.pool import PostgresDatabase, open_pool
from contree.adapters.postgres.project_keys import PostgresProjectKeys
from contree.adapters.postgres.read_models import guard_of
from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.adapters.postgres.work_queue import PostgresWorkQueue
from contree.adapters.registry.addresses import AddressPolicy
from contree.adapters.registry.source import RegistryImageSource
from contree.adapters.system.clock import SystemClock, SystemIds
from contree.adapters.system.project_cipher import AesCiphers
from contree.adapters.system.sealer import FileSealer
from contree.app.clock import Clock, IdSource
from contree.app.content.content_index import ContentIndex
from contree.app.content.pack_journals import PackJournals
from contree.app.content.packed_journal import PackedJournal
from contree.app.content.project_content import ProjectContent
from contree.app.content.project_environment import ProjectEnvironment
from contree.app.content.project_journal import ProjectJournal
from contree.app.event_log import EventLog
from contree.app.guest.guest_control import GuestControl
from contree.app.images.ancestry import Ancestry
from contree.app.images.image_comparison import ImageComparer
from contree.app.images.image_search import ImageSearch
from contree.app.images.image_source import ImageSource
from contree.app.images.layer_comparison import LayerComparer
from contree.app.images.layer_store import (
    ImageFiles,
    LayerRemoval,
    LayerStore,
)
from contree.app.journal import Journal
from contree.app.leadership import Leadership
from contree.app.operation_news import OperationNews
from contree.app.outages import Outages
from contree.app.reads import FileReads, ImageReads, OperationReads, ProjectReads, TokenReads
from contree.app.recorded_log import RecordedLog
from contree.app.sealing import Sealer
from contree.app.short_ids import KnownIds
from contree.app.work_queue import WorkQueue
from contree.bootstrap.databases import DatabaseUrls
from contree.bootstrap.history import History, history
from contree.bootstrap.proof import Proof, note_signer, open_proof
from contree.bootstrap.stores import Check, open_stores
from contree.config import Settings


class _Closes(Protocol):
    def close(self) -> None: ...


Closing = TypeVar("Closing", bound=_Closes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What API, worker and command line share."""

    settings: Settings
    clock: Clock
    ids: IdSource
    log: EventLog
    recorded: RecordedLog
    proof: Proof
    leadership: Leadership
    queue: WorkQueue
    journal: Journal
    packing: PackJournals
    news: OperationNews
    control: GuestControl
    database: PostgresDatabase
    images: ImageReads
    ancestry: Ancestry
    operations: OperationReads
    files: FileReads
    tokens: TokenReads
    projects: ProjectReads
    known_ids: KnownIds
    content_index: ContentIndex
    layer_removal: LayerRemoval
    shared_layers: SharedLayers | None
    check_store: Check
    outages: Outages
    content: ProjectContent
    environment: ProjectEnvironment
    layers: LayerStore
    comparer: LayerComparer
    image_comparer: ImageComparer
    image_files: ImageFiles
    image_search: ImageSearch
    source: ImageSource
    sealer: Sealer
    history: History


@asynccontextmanager
async def core(
    settings: Settings, urls: DatabaseUrls, *, make_keys: bool = False
) -> AsyncIterator[Core]:
    """Open what every long-running part needs. Raises UnavailableError.

    With `make_keys` the deployment's keys are made if its log is empty, and are wanted here if it
    is not: its first process makes them, other hosts have copies. Raises SealingKeyError.
    """
    async with AsyncExitStack() as stack:
        pool = await open_pool(urls.app)
        stack.push_async_callback(pool.close)
        leases = await open_pool(urls.app, connections_min=0, connections_max=1)
        stack.push_async_callback(leases.close)
        listener = PostgresListener(urls.app)
        stack.push_async_callback(listener.aclose)
        event_log = PostgresEventLog(pool, projections.ALL)
        reads = PostgresDatabase(pool, guard=guard_of(projections.ALL))
        clock, ids = SystemClock(), SystemIds()
        past = history(pool, listener, log=event_log, clock=clock, ids=ids)
        proof = open_proof(settings, pool, recorded=past.recorded, clock=clock)
        operations = projections.SqlOperationReads(reads)
        data_dir, sealer = settings.data_dir, FileSealer(settings.data_dir / "keys")
        if make_keys or settings.database_url is None:  # an embedded database has no other host
            _prepare_keys(settings, sealer, make=await past.recorded.head() == 0)
        keys = PostgresProjectKeys(pool, listener, sealer=sealer, ciphers=AesCiphers())
        if settings.store is not None:
            await keys.check()
        outages, alone = Outages(), PostgresMoments(pool).alone
        stores = await stack.enter_async_context(open_stores(settings, alone, outages))
        content = ProjectContent(keys=keys, blobs=stores.blobs)
        layers = _closed_by(stack, LayerDirectory(data_dir / "layers", stores.layers))
        rows = ProjectJournal(PostgresJournal(pool), keys=keys, operations=operations)
        packs = PostgresJournalPacks(pool)
        yield Core(
            settings=settings,
            clock=clock,
            ids=ids,
            log=event_log,
            recorded=past.recorded,
            proof=await stack.enter_async_context(proof),
            leadership=PostgresLeadership(urls.app),
            queue=PostgresWorkQueue(pool, event_log, listener=listener, leases=leases),
            journal=PackedJournal(rows, packs=packs, content=content),
            packing=PackJournals(journal=rows, packs=packs, content=content, clock=clock),
            news=PostgresOperationNews(listener),
            control=PostgresGuestControl(pool, listener),
            database=reads,
            images=projections.SqlImageReads(reads),
            ancestry=projections.SqlAncestry(reads, decode=OrjsonTranscoder().decode),
            operations=operations,
            files=projections.SqlFileReads(reads),
            tokens=projections.SqlTokenReads(reads),
            projects=projections.SqlProjectReads(reads),
            known_ids=projections.SqlKnownIds(reads),
            content_index=PostgresContentIndex(pool),
            layer_removal=LayerRemovals(data_dir / "layers", data_dir / "search"),
            shared_layers=stores.layers,
            check_store=stores.check,
            outages=outages,
            content=content,
            environment=ProjectEnvironment(keys=keys, content=content),
            layers=layers,
            comparer=IndexComparer(layers),
            image_comparer=_closed_by(stack, StackComparer(layers)),
            image_files=_closed_by(stack, LayerImageFiles(layers)),
            image_search=_closed_by(stack, LayerSearch(layers, data_dir / "search")),
            source=RegistryImageSource(data_dir / "pulls", AddressPolicy(settings.import_allow)),
            sealer=sealer,
            history=past,
        )


def _closed_by(stack: AsyncExitStack, part: Closing) -> Closing:
    """Return the part; the stack closes it, which blocks."""
    stack.push_async_callback(asyncio.to_thread, part.close)
    return part


def _prepare_keys(settings: Settings, sealer: FileSealer, *, make: bool) -> None:
    sealer.prepare(make=make)
    if make:
        note_signer(settings, make=True)
