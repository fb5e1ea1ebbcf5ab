"""A real server for a bench, with a small checkpoint to run on, and the floor beside it.

    with service() as running:  running.api, running.checkpoint(), running.raw_setup(image)

Everything lives below a temporary directory and is gone afterwards (tests.support.server checks
that no process and no scratch file stays).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from bench._raw_guest import RawSetup
from contree import bootstrap
from contree.adapters.microvm.boot.assets import find_assets
from contree.adapters.microvm.hypervisor.accelerator import KVM, TCG
from contree.adapters.microvm.templates.template import TemplateStore
from contree.app.images.layer_store import FilePart, Layer
from contree.bootstrap import Core
from contree.config import Settings
from infra.images.registry import running_registry
from infra.images.rootfs import small_image
from tests.acceptance.api import Api
from tests.support.images import record_image
from tests.support.server import RunningServer, running_server

PROJECT = "bench"
T = TypeVar("T")


class Service:
    """One running server. `api` is a client of its one project."""

    def __init__(self, server: RunningServer, api: Api) -> None:
        self.server = server
        self.api = api
        self.settings = Settings(data_dir=server.data_dir)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api.token}"}

    @property
    def accelerator(self) -> str:
        """What the guests run under, once the worker has found out."""
        verdict = json.loads((self.settings.data_dir / "cache" / "accelerator.json").read_text())
        return KVM if verdict["kvm_works"] else TCG

    @asynccontextmanager
    async def core(self) -> AsyncIterator[Core]:
        """Open what the server's own processes work with, beside them."""
        async with bootstrap.core(
            self.settings, bootstrap.running_database(self.settings)
        ) as opened:
            yield opened

    def with_core(self, work: Callable[[Core], Coroutine[Any, Any, T]]) -> T:
        """Run `work` on a core of its own."""

        async def run() -> T:
            async with self.core() as opened:
                return await work(opened)

        return asyncio.run(run())

    def cpu_s(self) -> float:
        """Return the CPU time, s, of all the service's processes so far, ended guests included.

        A QEMU counts as a child that the worker has reaped. Source: proc(5), stat, fields 14 to 17.
        """
        ticks = 0
        for process in self.server.processes():
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def checkpoint(self) -> str:
        """Import busybox, run one command on it; return the image that it left (three layers)."""
        image = small_image()
        with running_registry() as registry:
            base = self.api.import_image(registry.push(image.layout, image.tag, image.repository))
        return self.api.run(base, "echo checkpoint >/checkpoint").want_exit().image

    def raw_setup(self, image: str) -> RawSetup:
        """Return what a bare QEMU needs to boot what a run on `image` boots."""

        async def layers(core: Core) -> tuple[tuple[FilePart, ...], ...]:
            project_id = await self.project_id(core)
            stack = await core.images.stack(project_id, UUID(image))
            return (await core.layers.mount_plan(stack)).squashfs

        cache = self.settings.data_dir / "cache"
        return RawSetup(
            assets=find_assets(self.settings.data_dir / "guest"),
            layers=self.with_core(layers),
            blank_scratch=next((cache / "scratch").glob("scratch-*.img")),  # of the template
            memory_mib=self.settings.guest_memory_mib,
            accelerator=self.accelerator,
        )

    async def record_image(self, core: Core, layers: Sequence[Layer]) -> UUID:
        """Record an image of stored layers, bottom to top; return its id."""
        return await record_image(core, await self.project_id(core), layers)

    @contextmanager
    def restored_setup(self, image: str) -> Iterator[RawSetup]:
        """Give what a bare QEMU needs to restore what a run on `image` restores: our template."""
        templates = self.settings.data_dir / "cache" / "templates"
        (unit,) = (path for path in templates.iterdir() if not path.name.endswith(".partial"))
        template = TemplateStore(templates, unit.name).load()
        assert template is not None
        try:
            yield replace(self.raw_setup(image), template=template)
        finally:
            template.close()

    async def project_id(self, core: Core) -> UUID:
        return (await core.tokens.list())[0].project_id


@contextmanager
def service(**environment: str) -> Iterator[Service]:
    """Start `contreed serve`; keyword arguments are CONTREED_* variables in small letters."""
    variables: Mapping[str, str] = {f"CONTREED_{k.upper()}": v for k, v in environment.items()}
    with (
        running_server(environment=variables) as server,
        closing(Api(server.url, server.token(PROJECT))) as api,
    ):
        yield Service(server, api)
