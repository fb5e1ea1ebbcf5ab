"""The composition root: the only place that knows every ring, and that each adapter fits its port.

database(settings)   a database to work with: the embedded one, started or joined, or the URL's
core(settings, urls) what API, worker and command line share: pool, log, reads, stores
services(core)       the use cases behind the HTTP API
worker(core)         libvirt, and the use cases that carry operations out
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from contree import projections
from contree.adapters.blobs.directory import DirectoryContentStore
from contree.adapters.layers.image_files import LayerImageFiles
from contree.adapters.layers.search import LayerSearch
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.microvm.assets import prepare_assets
from contree.adapters.microvm.runner import LibvirtMicroVM
from contree.adapters.postgres.embedded import EmbeddedPostgres, running_dsn
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.guest_control import PostgresGuestControl
from contree.adapters.postgres.journal import PostgresJournal
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.migrate import migrate
from contree.adapters.postgres.operation_news import PostgresOperationNews
from contree.adapters.postgres.pool import PostgresDatabase, open_pool
from contree.adapters.postgres.rebuild import compare, rebuild
from contree.adapters.postgres.work_queue import PostgresWorkQueue
from contree.adapters.registry.skopeo import SkopeoImageSource
from contree.adapters.system.clock import SystemClock, SystemIds
from contree.adapters.system.sealer import FileSealer
from contree.app.access import Access
from contree.app.cancel_operation import CancelOperation
from contree.app.clock import Clock, IdSource
from contree.app.conclude import Conclude
from contree.app.content_store import ContentStore
from contree.app.event_log import EventLog
from contree.app.guest_control import GuestControl
from contree.app.image_search import ImageSearch
from contree.app.image_source import ImageSource
from contree.app.import_image import ImportImage
from contree.app.issue_tokens import IssueTokens
from contree.app.journal import Journal
from contree.app.layer_store import ImageFiles, LayerStore, MountPlan
from contree.app.microvm import GuestInfo, GuestSpec
from contree.app.operation_news import OperationNews
from contree.app.reads import FileReads, ImageReads, OperationReads, TokenReads
from contree.app.recover import Recover
from contree.app.request_import import RequestImport
from contree.app.request_run import RequestRun
from contree.app.run_instance import RunInstance
from contree.app.sealing import Sealer
from contree.app.services import Services
from contree.app.steer_instance import SteerInstance
from contree.app.tag_images import TagImages
from contree.app.upload_file import UploadFile
from contree.app.work_queue import WorkQueue
from contree.config import Settings
from contree.domain.errors import UnavailableError
from contree.domain.operation import Kind
from contree.worker.loop import Capacity, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrls:
    """Where the database is. `app` is the service's way in, `owner` may migrate and rebuild."""

    app: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What API, worker and command line share."""

    settings: Settings
    clock: Clock
    ids: IdSource
    log: EventLog
    queue: WorkQueue
    journal: Journal
    news: OperationNews
    control: GuestControl
    database: PostgresDatabase
    images: ImageReads
    operations: OperationReads
    files: FileReads
    tokens: TokenReads
    content: ContentStore
    layers: LayerStore
    image_files: ImageFiles
    image_search: ImageSearch
    source: ImageSource
    sealer: Sealer


@asynccontextmanager
async def owned_data_dir(settings: Settings) -> AsyncIterator[None]:
    """Hold the data directory: one `serve` each. Raises UnavailableError when one runs."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(settings.data_dir / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(
                f"another `contreed serve` runs on '{settings.data_dir}'"
            ) from None
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[DatabaseUrls]:
    """Give a migrated database: the configured one, or the embedded one.

    The embedded server is joined when it runs on this data directory, else started for the time of
    the context.
    """
    if settings.database_url is not None:
        urls = DatabaseUrls(
            app=settings.database_url, owner=settings.database_owner_url or settings.database_url
        )
        await migrate(urls.owner, projections=projections.ALL)
        yield urls
        return
    running = running_dsn(settings.data_dir)
    if running is not None:
        yield DatabaseUrls(app=running, owner=running)
        return
    server = EmbeddedPostgres(settings.data_dir, settings.runtime_dir / "postgres")
    await server.start()
    keeper = asyncio.create_task(server.supervise())
    try:
        await migrate(server.dsn, projections=projections.ALL)
        yield DatabaseUrls(app=server.dsn, owner=server.dsn)
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await server.stop()


def running_database(settings: Settings) -> DatabaseUrls:
    """Where the embedded server of a running `serve` is. Raises UnavailableError."""
    if settings.database_url is not None:
        owner = settings.database_owner_url or settings.database_url
        return DatabaseUrls(app=settings.database_url, owner=owner)
    running = running_dsn(settings.data_dir)
    if running is None:
        raise UnavailableError(
            f"no server runs on '{settings.data_dir}'; start one with `contreed serve`"
        )
    return DatabaseUrls(app=running, owner=running)


@asynccontextmanager
async def core(settings: Settings, urls: DatabaseUrls) -> AsyncIterator[Core]:
    """Open what every long-running part needs. Raises UnavailableError."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(urls.app)
        stack.push_async_callback(pool.close)
        listener = PostgresListener(urls.app)
        stack.push_async_callback(listener.aclose)
        event_log = PostgresEventLog(pool, projections.ALL)
        reads = PostgresDatabase(pool)
        layers = LayerDirectory(settings.data_dir / "layers")
        stack.push_async_callback(asyncio.to_thread, layers.close)
        image_files = LayerImageFiles(layers)
        stack.push_async_callback(asyncio.to_thread, image_files.close)
        image_search = LayerSearch(layers, settings.data_dir / "search")
        stack.push_async_callback(asyncio.to_thread, image_search.close)
        yield Core(
            settings=settings,
            clock=SystemClock(),
            ids=SystemIds(),
            log=event_log,
            queue=PostgresWorkQueue(pool, event_log, dsn=urls.app),
            journal=PostgresJournal(pool),
            news=PostgresOperationNews(listener),
            control=PostgresGuestControl(pool, listener),
            database=reads,
            images=projections.SqlImageReads(reads),
            operations=projections.SqlOperationReads(reads),
            files=projections.SqlFileReads(reads),
            tokens=projections.SqlTokenReads(reads),
            content=DirectoryContentStore(settings.data_dir / "content"),
            layers=layers,
            image_files=image_files,
            image_search=image_search,
            source=SkopeoImageSource(settings.data_dir / "pulls"),
            sealer=FileSealer(settings.data_dir / "keys"),
        )


def services(core: Core) -> Services:
    """The use cases behind the HTTP API."""
    limits = core.settings.limits
    return Services(
        access=Access(tokens=core.tokens, clock=core.clock),
        images=core.images,
        operations=core.operations,
        files=core.files,
        runs=RequestRun(
            log=core.log,
            images=core.images,
            files=core.files,
            content=core.content,
            sealer=core.sealer,
            clock=core.clock,
            ids=core.ids,
            limits=limits,
        ),
        imports=RequestImport(
            log=core.log,
            source=core.source,
            sealer=core.sealer,
            clock=core.clock,
            ids=core.ids,
            limits=limits,
        ),
        cancellation=CancelOperation(log=core.log, clock=core.clock),
        tags=TagImages(log=core.log, images=core.images, clock=core.clock),
        uploads=UploadFile(
            log=core.log, files=core.files, content=core.content, clock=core.clock, limits=limits
        ),
        content=core.content,
        image_files=core.image_files,
        image_search=core.image_search,
        journal=core.journal,
        news=core.news,
        steering=SteerInstance(
            control=core.control,
            operations=core.operations,
            content=core.content,
            sealer=core.sealer,
        ),
        limits=limits,
        clock=core.clock,
        ready=core.database.check,
    )


def issue_tokens(core: Core) -> IssueTokens:
    """The operator's use case."""
    return IssueTokens(log=core.log, clock=core.clock, ids=core.ids)


@asynccontextmanager
async def microvm(settings: Settings, *, reprobe: bool = False) -> AsyncIterator[LibvirtMicroVM]:
    """Connect to libvirt with the guest's kernel and agent at hand. Raises GuestFailure."""
    assets = await asyncio.to_thread(
        prepare_assets,
        settings.guest_kernel_dir,
        settings.guest_agent,
        settings.data_dir / "guest",
    )
    machines = await LibvirtMicroVM.open(
        uri=settings.libvirt_uri,
        runtime_dir=settings.runtime_dir / "guests",
        cache_dir=settings.data_dir / "cache",
        assets=assets,
        accelerator=settings.accelerator,
        memory_mib=settings.guest_memory_mib,
        vcpu_count=settings.guest_vcpu_count,
        max_layer_bytes=settings.limits.instance_max_layer_bytes,
        reprobe=reprobe,
    )
    try:
        yield machines
    finally:
        await machines.aclose()


@asynccontextmanager
async def probed_guest(settings: Settings) -> AsyncIterator[GuestInfo]:
    """Boot a guest without any layer; an earlier verdict on the accelerator does not count."""
    async with microvm(settings, reprobe=True) as machines:
        spec = GuestSpec(
            run_id=SystemIds().new_id(),
            mounts=MountPlan(squashfs=()),
            hostname="probe",
            max_layer_bytes=1024**2,
        )
        async with machines.start(spec) as guest:
            yield guest.info


@asynccontextmanager
async def worker(core: Core) -> AsyncIterator[Worker]:
    """A worker that is ready to run."""
    settings, limits = core.settings, core.settings.limits
    if isinstance(core.layers, LayerDirectory):
        await asyncio.to_thread(core.layers.sweep)
    if isinstance(core.source, SkopeoImageSource):
        await asyncio.to_thread(core.source.sweep)
    conclude = Conclude(
        log=core.log, clock=core.clock, ids=core.ids, actor=f"worker:{settings.worker_name}"
    )
    async with microvm(settings) as machines:
        run_instance = RunInstance(
            log=core.log,
            files=core.files,
            content=core.content,
            layers=core.layers,
            microvm=machines,
            journal=core.journal,
            control=core.control,
            sealer=core.sealer,
            clock=core.clock,
            ids=core.ids,
            conclude=conclude,
        )
        import_image = ImportImage(
            log=core.log,
            source=core.source,
            layers=core.layers,
            sealer=core.sealer,
            clock=core.clock,
            ids=core.ids,
            conclude=conclude,
        )
        yield Worker(
            name=settings.worker_name,
            queue=core.queue,
            execute={Kind.INSTANCE: run_instance.execute, Kind.IMPORT: import_image.execute},
            capacity={
                Kind.INSTANCE: Capacity(
                    here=settings.instances_here, per_project=limits.instance_max_concurrency
                ),
                Kind.IMPORT: Capacity(
                    here=settings.imports_here, per_project=limits.images_import_max_concurrency
                ),
            },
            conclude=conclude,
            recover=Recover(queue=core.queue, clock=core.clock, conclude=conclude),
            microvm=machines,
            clock=core.clock,
            ids=core.ids,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """What a rebuild or check found, in words."""

    event_count: int
    differences: Sequence[str]


async def rebuild_projections(urls: DatabaseUrls, *, check: bool) -> RebuildReport:
    """Rebuild the read models, or only compare them with rebuilt ones."""
    if check:
        compared = await compare(urls.owner, projections=projections.ALL)
        differences = [str(difference) for difference in compared.differences]
        return RebuildReport(event_count=compared.event_count, differences=differences)
    rebuilt = await rebuild(urls.owner, projections=projections.ALL)
    return RebuildReport(event_count=rebuilt.event_count, differences=())
