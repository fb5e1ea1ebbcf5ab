"""A whole Contree in memory: every use case on the fakes, and a worker that can be run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from uuid import UUID

from contree.app.access import Caller
from contree.app.cancel_operation import CancelOperation
from contree.app.conclude import Conclude
from contree.app.content.project_content import ProjectContent
from contree.app.content.project_environment import ProjectEnvironment
from contree.app.content.project_journal import ProjectJournal
from contree.app.content.upload_file import UploadFile
from contree.app.guest.steer_instance import SteerInstance
from contree.app.images.import_image import ImportImage
from contree.app.images.request_import import ImportOrder, RequestImport
from contree.app.limits import Limits
from contree.app.outages import Outages
from contree.app.pending_bound import PendingBound
from contree.app.place_files import PlaceFiles
from contree.app.reads import OperationRow, TokenRow
from contree.app.recover import Recover
from contree.app.replay.compare_replay import CompareReplay
from contree.app.replay.replay_chain import ReplayChain
from contree.app.replay.request_replay import RequestReplay
from contree.app.request_run import RequestRun, RunOrder
from contree.app.run_instance import RunInstance
from contree.domain.operation import Kind, Operation, Status
from contree.domain.token import Permission
from contree.worker.loop import Capacity, Worker
from contree.worker.obstacles import NothingAway, NothingLacking, Obstacle, Obstacles
from contree.worker.room import Admission, FixedAdmission
from tests.fakes.archives import FakeArchives
from tests.fakes.blob_store import FakeBlobStore
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.guest_control import FakeGuestControl
from tests.fakes.image_source import FakeImageSource, PublishedImage
from tests.fakes.journal import FakeJournal
from tests.fakes.layers import FakeLayers
from tests.fakes.microvm import FakeMicroVM, Program
from tests.fakes.operation_news import FakeOperationNews
from tests.fakes.project_keys import FakeProjectKeys
from tests.fakes.reads import FakeFileReads, FakeImageReads, FakeOperationReads
from tests.fakes.sealer import FakeSealer
from tests.fakes.work_queue import FakeWorkQueue
from tests.support.registry import tar_of

PROJECT = UUID(int=1)
PENDING_MAX = 100
URL = "docker://registry.example/base:latest"


def a_caller(*permissions: Permission, project_id: UUID = PROJECT) -> Caller:
    token = TokenRow(
        token_id=UUID(int=99),
        project_id=project_id,
        project_name="demo",
        permissions=frozenset(p.value for p in permissions or tuple(Permission)),
        created_at=EPOCH,
        expires_at=None,
        revoked_at=None,
    )
    return Caller(token=token, request_id="r")


class World:
    """The fakes, the use cases over them, and one worker named `w`."""

    def __init__(
        self,
        programs: Mapping[str, Program] | None = None,
        *,
        admission: Admission | None = None,
        per_project: int = 2,
        log: FakeEventLog | None = None,
        outages: Outages | None = None,
    ) -> None:
        self.per_project = per_project
        self.waiting = 0
        self.lack: str | None = None
        self.looks = 0
        self.told: list[str | None] = []
        self.admission = admission or FixedAdmission(most=2, setting="here")
        self.log = log or FakeEventLog()
        self.clock, self.ids = FakeClock(), FakeIds()
        keys, self.blobs, self.layers = FakeProjectKeys(self.log), FakeBlobStore(), FakeLayers()
        self.content = ProjectContent(keys=keys, blobs=self.blobs)
        self.environment = ProjectEnvironment(keys=keys, content=self.content)
        self.source, self.microvm = FakeImageSource(), FakeMicroVM(programs)
        self.archives = FakeArchives()
        self.sealer = FakeSealer()
        self.control = FakeGuestControl()
        self.images = FakeImageReads(self.log)
        self.operations = FakeOperationReads(self.log)
        self.files = FakeFileReads(self.log)
        self.queue = FakeWorkQueue(self.log, self.clock)
        self.outages = outages or Outages()
        self.obstacles = Obstacles(
            [
                NothingAway(outages=self.outages),
                self._disk,
                NothingLacking(lacking=self._lacking),
            ],
            told=self.told.append,
        )
        self.disk_is_full = False
        self.drain_s = 0.0
        self.limits = Limits(pending_max_per_project=PENDING_MAX)
        self.pending = PendingBound(operations=self.operations, limits=self.limits)
        self.source.publish(
            URL,
            PublishedImage(
                layers=[tar_of([("etc/motd", b"hello\n")])],
                env={"LANG": "C", "BASE": "1"},
                workdir="/work",
            ),
        )
        self.conclude = Conclude(
            log=self.log,
            outages=self.outages,
            clock=self.clock,
            ids=self.ids,
            actor="worker:w",
        )
        self.journal = ProjectJournal(FakeJournal(), keys=keys, operations=self.operations)
        self.runs = RequestRun(
            log=self.log,
            images=self.images,
            files=self.files,
            content=self.content,
            environment=self.environment,
            sealer=self.sealer,
            pending=self.pending,
            clock=self.clock,
            ids=self.ids,
            limits=self.limits,
        )
        self.imports = RequestImport(
            log=self.log,
            source=self.source,
            sealer=self.sealer,
            pending=self.pending,
            clock=self.clock,
            ids=self.ids,
            limits=self.limits,
        )
        self.cancellation = CancelOperation(log=self.log, clock=self.clock)
        self.steering = SteerInstance(
            control=self.control,
            operations=self.operations,
            content=self.content,
            environment=self.environment,
            sealer=self.sealer,
        )
        self.uploads = UploadFile(
            log=self.log,
            files=self.files,
            content=self.content,
            clock=self.clock,
            limits=self.limits,
        )

        self.replays = RequestReplay(
            log=self.log,
            images=self.images,
            files=self.files,
            content=self.content,
            environment=self.environment,
            sealer=self.sealer,
            pending=self.pending,
            clock=self.clock,
            ids=self.ids,
        )
        self.comparison = CompareReplay(
            log=self.log,
            images=self.images,
            operations=self.operations,
            content=self.content,
            layers=self.layers,
            files=self.layers,
        )
        self.news = FakeOperationNews()
        self.log.ended = self.news.tell
        self.chain = ReplayChain(
            requests=self.replays,
            comparison=self.comparison,
            images=self.images,
            operations=self.operations,
            news=self.news,
        )

    def worker(self) -> Worker:
        run = RunInstance(
            log=self.log,
            images=self.images,
            files=PlaceFiles(
                files=self.files,
                content=self.content,
                archives=self.archives,
                outages=self.outages,
            ),
            content=self.content,
            environment=self.environment,
            layers=self.layers,
            microvm=self.microvm,
            journal=self.journal,
            control=self.control,
            sealer=self.sealer,
            clock=self.clock,
            ids=self.ids,
            conclude=self.conclude,
            outages=self.outages,
        )
        pull = ImportImage(
            log=self.log,
            source=self.source,
            layers=self.layers,
            environment=self.environment,
            sealer=self.sealer,
            conclude=self.conclude,
            outages=self.outages,
        )
        return Worker(
            name="w",
            queue=self.queue,
            execute={Kind.INSTANCE: run.execute, Kind.IMPORT: pull.execute},
            capacity={
                kind: Capacity(here=self.admission, per_project=self.per_project) for kind in Kind
            },
            conclude=self.conclude,
            recover=Recover(queue=self.queue, conclude=self.conclude),
            microvm=self.microvm,
            clock=self.clock,
            ids=self.ids,
            obstacles=self.obstacles,
            drain_s=self.drain_s,
            waiting=lambda: self.waiting,
        )

    def _lacking(self) -> str | None:
        self.looks += 1
        return self.lack

    def _disk(self) -> Obstacle | None:
        return Obstacle(kind="disk", reason="of the test") if self.disk_is_full else None

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """A worker runs for the time of the context, and is stopped in order."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.worker().run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def row(self, operation_id: UUID) -> OperationRow:
        row = await self.operations.get(PROJECT, operation_id)
        assert row is not None
        return row

    async def end_of(self, operation_id: UUID) -> OperationRow:
        """Wait until the operation has ended."""
        async with asyncio.timeout(10):
            async for _ in self.queue.wakeups(worker="nobody", poll_s=0.01):
                row = await self.row(operation_id)
                if row.status.is_terminal:
                    return row
        raise AssertionError("wakeups do not end")

    async def image_of(self, operation_id: UUID) -> UUID | None:
        """Wait until an operation of any project has succeeded; return the image that it left."""
        async with asyncio.timeout(10):
            async for _ in self.queue.wakeups(worker="nobody", poll_s=0.01):
                operation = await self.log.load(Operation, operation_id)
                assert operation is not None
                if operation.status.is_terminal:
                    assert operation.status is Status.SUCCESS, operation.error
                    return operation.result_image_id
        raise AssertionError("wakeups do not end")

    async def imported(self, **order: object) -> UUID:
        """Import the base image and return its id. Needs a working worker."""
        wanted = ImportOrder(**{"registry_url": URL, "tag": "base", **order})
        row = await self.end_of(await self.imports.request(a_caller(), wanted))
        assert row.result_image_id is not None, row.error
        return row.result_image_id

    async def ran(self, image: object, command: str, *args: str, **order: object) -> OperationRow:
        """Run to the end and return the row."""
        wanted = RunOrder(image=str(image), command=command, args=args, **order)
        operation_id, _ = await self.runs.request(a_caller(), wanted)
        return await self.end_of(operation_id)
