"""One server without guests: real API, log, stores and layers, for tests of what it keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from aiohttp.test_utils import TestClient, TestServer

from contree import bootstrap
from contree.adapters.layers.unpacking.unpacker import ArchiveUnpacker
from contree.app.conclude import Conclude
from contree.app.content.keep_projects import KeepProjects
from contree.app.content.remove_content import RemoveContent
from contree.app.place_files import PlaceFiles
from contree.app.run_instance import RunInstance
from contree.bootstrap import Core
from contree.domain.context import Context
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.operation import Kind
from contree.domain.project import project_id_of
from contree.domain.token import READING, Permission
from contree.http.app import create_app
from tests.fakes.microvm import PROGRAMS, FakeFile, FakeMicroVM, FakeProcess

NOTHING_FRESH = timedelta(seconds=-60)


async def _tell(process: FakeProcess) -> int:
    """Write the argument and the variable, and leave a file of that name."""
    text = process.spec.argv[1]
    process.write((text + process.spec.env.get("WHO", "")).encode())
    process.guest.files[f"/{text.strip('/ ')}"] = FakeFile(b"")
    return 0


class Deployment:
    """One server without guests. `api` asks as the project's token."""

    def __init__(self, core: Core, dsn: str) -> None:
        self.core = core
        self.dsn = dsn
        self.data_dir = core.settings.data_dir
        self.keep = KeepProjects(
            log=core.log,
            projects=core.projects,
            tokens=core.tokens,
            clock=core.clock,
            ids=core.ids,
        )
        self.microvm = FakeMicroVM(PROGRAMS | {"tell": _tell})
        self.secrets: dict[str, str] = {}

    async def token(self, project: str) -> str:
        """A token that may do all that its project allows."""
        row = await self.core.projects.get(project_id_of(project))
        erased = row is not None and row.erased_at is not None
        return await bootstrap.issue_tokens(self.core).issue(
            project=project,
            permissions=[p for p in Permission if not erased or p in READING],
            expires_at=None,
        )

    async def image(self, project: str) -> UUID:
        """An image without layers."""
        context = Context(
            actor="worker:w",
            project_id=project_id_of(project),
            request_id="r",
            at=self.core.clock.now(),
        )
        image = Image.imported(
            context,
            operation_id=self.core.ids.new_id(),
            registry_url="docker://registry.example/image:latest",
            manifest_digest="sha256:m",
            config_digest="sha256:c",
            layers=[],
            environment=RecordedEnvironment(),
            workdir="/",
            size_bytes=0,
        )
        await self.core.log.append(image)
        return image.id

    async def work(self) -> None:
        """Carry out everything that is pending."""
        core = self.core
        conclude = Conclude(
            log=core.log,
            outages=core.outages,
            clock=core.clock,
            ids=core.ids,
            actor="worker:w",
        )
        run = RunInstance(
            log=core.log,
            images=core.images,
            files=PlaceFiles(
                files=core.files,
                content=core.content,
                archives=ArchiveUnpacker(core.settings.data_dir / "cache" / "unpacking"),
                outages=core.outages,
            ),
            content=core.content,
            environment=core.environment,
            layers=core.layers,
            microvm=self.microvm,
            journal=core.journal,
            control=core.control,
            sealer=core.sealer,
            clock=core.clock,
            ids=core.ids,
            conclude=conclude,
            outages=core.outages,
        )
        for operation in await self.claim():
            await run.execute(operation)

    async def claim(self) -> Any:
        at = self.core.clock.now()
        return await self.core.queue.claim(
            worker="w",
            kind=Kind.INSTANCE,
            limit=10,
            running_per_project_max=10,
            lease_until=at + timedelta(seconds=60),
            context=Context(actor="worker:w", project_id=UUID(int=0), request_id="r", at=at),
        )

    def removal(self, *, parts: Core | None = None, **options: Any) -> RemoveContent:
        return RemoveContent(
            parts or self.core,
            actor="worker:w",
            **{"fresh": NOTHING_FRESH, "settled": NOTHING_FRESH, **options},
        )

    def layers(self) -> set[str]:
        return {path.name for path in (self.data_dir / "layers").glob("?" * 64)}


class Api:
    def __init__(self, deployment: Deployment, client: Any) -> None:
        self._deployment = deployment
        self._client = client

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self._client.request(method, path, **options) as response:
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.text())

    async def run(self, image: UUID, text: str, **fields: Any) -> UUID:
        body = {"image": str(image), "command": "tell", "args": [text], **fields}
        status, started = await self.ask("POST", "/v1/instances", json=body)
        assert status == 201, started
        await self._deployment.work()
        ended = await self.operation(UUID(started["uuid"]))
        assert ended["status"] == "SUCCESS", ended["error"]
        return UUID(started["uuid"])

    async def operation(self, operation_id: UUID) -> dict[str, Any]:
        status, value = await self.ask("GET", f"/v1/operations/{operation_id}")
        assert status == 200
        assert isinstance(value, dict)
        return value


@asynccontextmanager
async def api_of(deployment: Deployment, project: str) -> AsyncIterator[Api]:
    headers = {"Authorization": f"Bearer {await deployment.token(project)}"}
    server = TestServer(create_app(bootstrap.services(deployment.core)))
    async with TestClient(server, headers=headers) as client:
        yield Api(deployment, client)
