"""A whole API over fakes: real use cases, the log and the stores in memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from contree.app.access import Access, secret_sha256
from contree.app.audit.ask_audit import AskAudit
from contree.app.cancel_operation import CancelOperation
from contree.app.content.project_content import ProjectContent
from contree.app.content.project_environment import ProjectEnvironment
from contree.app.content.upload_file import UploadFile
from contree.app.guest.steer_instance import SteerInstance
from contree.app.images.blame import Blame
from contree.app.images.compare_images import CompareImages
from contree.app.images.image_log import ImageHistory, ShowLog
from contree.app.images.request_import import RequestImport
from contree.app.images.tag_images import TagImages
from contree.app.limits import Limits
from contree.app.pending_bound import PendingBound
from contree.app.replay.compare_replay import CompareReplay
from contree.app.replay.request_replay import RequestReplay
from contree.app.request_run import RequestRun
from contree.app.services import Services
from contree.domain.context import Context
from contree.domain.errors import ConflictError, UnavailableError
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.operation import Operation
from contree.domain.outcome import CapturedStream, ProcessOutcome, ResourceUsage
from contree.domain.project import Project, project_id_of
from contree.domain.tag import Tag
from contree.domain.token import Permission, Token
from contree.http.app import create_app
from tests.fakes.audit import FakeAuditProgress, FakeAuditReads, FakePastReads
from tests.fakes.blob_store import FakeBlobStore
from tests.fakes.clock import FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.guest_control import FakeGuestControl
from tests.fakes.image_search import FakeImageSearch
from tests.fakes.image_source import FakeImageSource
from tests.fakes.journal import FakeJournal
from tests.fakes.layers import FakeLayers
from tests.fakes.operation_news import FakeOperationNews
from tests.fakes.project_keys import FakeProjectKeys
from tests.fakes.reads import (
    FakeAncestry,
    FakeFileReads,
    FakeImageReads,
    FakeOperationReads,
    FakeTokenReads,
)
from tests.fakes.recorded_log import FakeRecordedLog
from tests.fakes.sealer import FakeSealer
from tests.support.histories import a_spec
from tests.unit.http.memory import MemoryFiles

Api = TestClient[web.Request, web.Application]
LIMITS = Limits(request_body_bytes_max=256 * 1024, upload_bytes_max=4 * 1024**2)


class World:
    """`services` for `create_app`, and short ways to bring about what the API then shows."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.clock = FakeClock()
        self.ids = FakeIds()
        self.log = FakeEventLog()
        self.blobs = FakeBlobStore()
        keys = FakeProjectKeys(self.log)
        self.content = ProjectContent(keys=keys, blobs=self.blobs)
        self.environment = ProjectEnvironment(keys=keys, content=self.content)
        self.files = MemoryFiles()
        self.search = FakeImageSearch(self.files)
        self.journal = FakeJournal()
        self.news = FakeOperationNews()
        self.journal.appended = self.log.ended = self.news.tell
        self.control = FakeGuestControl()
        self.recorded = FakeRecordedLog(self.log)
        self.progress = FakeAuditProgress(self.log, self.recorded)
        self.is_ready = True
        self.layers = FakeLayers()
        self._images = 0

    async def _ready(self) -> None:
        if not self.is_ready:
            raise UnavailableError("the database is not there")

    def services(self) -> Services:
        log, clock, ids = self.log, self.clock, self.ids
        images, uploads = FakeImageReads(log), FakeFileReads(log)
        pending = PendingBound(operations=FakeOperationReads(log), limits=self.limits)
        ancestry = FakeAncestry(log)
        diffs = CompareImages(
            images=images, ancestry=ancestry, comparer=self.layers, files=self.layers
        )
        history = ImageHistory(
            images=images, ancestry=ancestry, comparer=self.layers, compare=diffs
        )
        return Services(
            access=Access(tokens=FakeTokenReads(log), clock=clock),
            images=images,
            operations=FakeOperationReads(log),
            files=uploads,
            runs=RequestRun(
                log=log,
                images=images,
                files=uploads,
                content=self.content,
                environment=self.environment,
                sealer=FakeSealer(),
                pending=pending,
                clock=clock,
                ids=ids,
                limits=self.limits,
            ),
            imports=RequestImport(
                log=log,
                source=FakeImageSource(),
                sealer=FakeSealer(),
                pending=pending,
                clock=clock,
                ids=ids,
                limits=self.limits,
            ),
            cancellation=CancelOperation(log=log, clock=clock),
            tags=TagImages(log=log, images=images, clock=clock),
            uploads=UploadFile(
                log=log, files=uploads, content=self.content, clock=clock, limits=self.limits
            ),
            content=self.content,
            environment=self.environment,
            image_files=self.files,
            image_search=self.search,
            diffs=diffs,
            blame=Blame(history=history, images=images, comparer=self.layers, files=self.layers),
            image_log=ShowLog(
                history=history,
                images=images,
                operations=FakeOperationReads(log),
                ancestry=ancestry,
                compare=diffs,
            ),
            journal=self.journal,
            news=self.news,
            steering=SteerInstance(
                control=self.control,
                operations=FakeOperationReads(log),
                content=self.content,
                environment=self.environment,
                sealer=FakeSealer(),
            ),
            audit=AskAudit(
                log=log,
                recorded=self.recorded,
                progress=self.progress,
                reads=FakeAuditReads(log, self.recorded),
                past=FakePastReads(log),
                clock=clock,
                ids=ids,
            ),
            replays=RequestReplay(
                log=log,
                images=images,
                files=uploads,
                content=self.content,
                environment=self.environment,
                sealer=FakeSealer(),
                pending=pending,
                clock=clock,
                ids=ids,
            ),
            comparison=CompareReplay(
                log=log,
                images=images,
                operations=FakeOperationReads(log),
                content=self.content,
                layers=self.layers,
                files=self.files,
            ),
            limits=self.limits,
            clock=clock,
            ready=self._ready,
        )

    def client(self) -> Api:
        return TestClient(TestServer(create_app(self.services())))

    def context(self, project: str = "alpha") -> Context:
        return Context(
            actor="test",
            project_id=project_id_of(project),
            request_id="r",
            at=self.clock.now(),
        )

    async def token(
        self,
        project: str = "alpha",
        permissions: Sequence[Permission] = tuple(Permission),
        *,
        lives: timedelta | None = None,
    ) -> str:
        """Return the secret of a new token of the project."""
        context = self.context(project)
        with suppress(ConflictError):
            await self.log.append(Project.create(context, name=project))
        secret = self.ids.new_secret()
        token = Token.issue(
            context,
            token_id=self.ids.new_id(),
            secret_sha256=secret_sha256(secret),
            permissions=permissions,
            expires_at=None if lives is None else self.clock.now() + lives,
        )
        await self.log.append(token)
        return secret

    async def erase(self, project: str = "alpha") -> None:
        """Erase the project's content; its tokens stay."""
        found = await self.log.load(Project, project_id_of(project))
        assert found is not None
        found.erase(self.context(project), reason="asked for")
        await self.log.append(found)

    async def image(
        self, tag: str | None = None, project: str = "alpha", layers: Sequence[str] = ("sha256:a",)
    ) -> UUID:
        """Return the id of a new image."""
        self._images += 1
        image = Image.imported(
            self.context(project),
            operation_id=self.ids.new_id(),
            registry_url="docker://registry.example/image:latest",
            manifest_digest="sha256:m",
            config_digest=f"sha256:{self._images}",
            layers=layers,
            environment=RecordedEnvironment(),
            workdir="",
            size_bytes=10,
        )
        await self.log.append(image)
        if tag is not None:
            await self.log.append(Tag.assign(self.context(project), name=tag, image_id=image.id))
        return image.id

    async def ran(
        self, below: UUID, command: str, files: dict[str, bytes], gone: tuple[str, ...] = ()
    ) -> UUID:
        """Return the image of a run that put these files and removed others; it exited with 3."""
        parent = await self.log.load(Image, below)
        assert parent is not None
        operation = Operation.request_instance(
            self.context(), operation_id=self.ids.new_id(), spec=a_spec(below, command=command)
        )
        await self.log.append(operation)
        image = parent.committed(
            self.context(),
            operation_id=operation.id,
            layer=self.layers.put_files(files, gone=gone) if files or gone else None,
            workdir="",
            size_bytes=1,
        )
        await self.log.append(image)
        await self.succeed(operation.id, await self.outcome(exit_code=3), image_id=image.id)
        return image.id

    async def operation(self, operation_id: UUID) -> Operation:
        found = await self.log.load(Operation, operation_id)
        assert found is not None
        return found

    async def begin(self, operation_id: UUID) -> Operation:
        """Bring a pending operation to EXECUTING."""
        operation = await self.operation(operation_id)
        until = self.clock.now() + timedelta(seconds=30)
        operation.assign(self.context(), worker="w", lease_until=until)
        operation.start(self.context())
        await self.log.append(operation)
        return operation

    async def outcome(
        self,
        *,
        stdout: bytes = b"",
        stderr: bytes = b"",
        exit_code: int = 0,
        signal: int = -1,
        timed_out: bool = False,
        dropped_bytes: int = 0,
        project: str = "alpha",
    ) -> ProcessOutcome:
        streams = []
        for data in (stdout, stderr):
            stored = await self.content.put_bytes(project_id_of(project), data)
            streams.append(
                CapturedStream(
                    sha256=stored.sha256, size_bytes=len(data), dropped_bytes=dropped_bytes
                )
            )
        return ProcessOutcome(
            pid=7,
            exit_code=exit_code,
            signal=signal,
            core_dumped=False,
            timed_out=timed_out,
            oom_killed=False,
            duration_us=1_500_000,
            usage=ResourceUsage(user_time_us=250_000, sys_time_us=50_000, max_rss_kb=2048),
            stdout=streams[0],
            stderr=streams[1],
        )

    async def succeed(
        self,
        operation_id: UUID,
        outcome: ProcessOutcome | None = None,
        *,
        image_id: UUID | None = None,
        tag: str | None = None,
    ) -> None:
        """Bring an operation from wherever it is to SUCCESS."""
        operation = await self.operation(operation_id)
        if not operation.status.is_running:
            operation = await self.begin(operation_id)
        self.clock.advance(2)
        operation.succeed(
            self.context(),
            result_image_id=image_id,
            result_tag=tag,
            image_size_bytes=None if image_id is None else 512,
            outcome=outcome,
        )
        await self.log.append(operation)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
