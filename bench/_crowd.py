"""A crowd of runs of several projects, and what they leave of the service: benches and a test.

    crowd = Crowd(service, {"many": 300, "few": 20})    # projects, runs of each
    before = stock_of(service); ended = crowd.run(); after = stock_of(service)

All runs are queued before anyone waits for one, project after project, so that whoever comes last
finds the queue full of others.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg

from bench._measure import progress
from bench._memory_of import own_mib
from bench._service import Service
from contree.adapters.postgres.pool import APPLICATION, CONNECTIONS_MAX
from contree.app.reads import OperationRow
from contree.bootstrap import Core
from infra.images.registry import running_registry
from infra.images.rootfs import small_image
from tests.acceptance.api import Api
from tests.support.server import Process

COMMAND = "echo {number} >/written; cat /written"
MEMORY_SHARE = 0.1
"""How much the memory of the service may grow."""

QUIET_S = 300.0
POLL_S = 0.5
LATEST_S = 1.5
"""Expected of one run at the very worst, guests emulated on a busy machine; bounds our patience."""

PATIENCE_S = 300.0
STATES = "SELECT operation_id, status FROM operations WHERE operation_id = ANY($1)"
CONNECTIONS = """
SELECT count(*) FILTER (WHERE application_name = $1), count(*) FILTER (WHERE application_name <> $1)
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""

POOLED_MAX = 2 * CONNECTIONS_MAX
"""API and worker have a pool each, which opens connections as they are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What a service holds when nothing runs.

    processes    API, worker and their helpers, by command; PostgreSQL's own are not counted
    sockets      of API and worker but for the pools' connections
    descriptors  of the same but for the pools' connections, and for layers' indexes, whose cache is
                 bounded by itself
    connections  of the service to the database, apart from the pools
    pooled       those of the pools: how many were needed at once so far, which is chance
    memory_mib   of API and of worker, what they have made themselves

    A pool whose connections do not come back runs out of them, and then runs no longer end: that
    is how it would show.
    """

    processes: Mapping[str, int]
    sockets: int
    descriptors: int
    scratch_files: int
    connections: int
    pooled: int
    memory_mib: Mapping[str, float]

    @property
    def memory_in_all_mib(self) -> float:
        return sum(self.memory_mib.values())

    def leaks_over(self, before: Stock, *, memory_share: float) -> list[str]:
        """Return in words what is more than it was; memory may grow by `memory_share`."""
        found = [
            f"{name}: {count} processes, there were {before.processes.get(name, 0)}"
            for name, count in self.processes.items()
            if count > before.processes.get(name, 0)
        ]
        for what in ("sockets", "descriptors", "scratch_files", "connections"):
            now, then = getattr(self, what), getattr(before, what)
            if now > then:
                found.append(f"{what}: {now}, there were {then}")
        if self.pooled > POOLED_MAX:
            found.append(f"pooled connections: {self.pooled}, at most {POOLED_MAX}")
        now, then = self.memory_in_all_mib, before.memory_in_all_mib
        if now > then * (1 + memory_share):
            found.append(f"memory: {now:.1f} MiB, it was {then:.1f}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One run of the crowd, as the service has it."""

    project: str
    number: int
    row: OperationRow

    @property
    def failure(self) -> str:
        """Why it is not what was asked for, empty when it is."""
        outcome = self.row.outcome
        if self.row.status.value != "SUCCESS" or outcome is None:
            return f"{self.row.status.value}: {self.row.error}"
        if outcome["exit_code"] != 0 or self.row.result_image_id is None:
            return f"exit code {outcome['exit_code']}"
        return ""

    @property
    def waited_s(self) -> float:
        assert self.row.started_at is not None
        return (self.row.started_at - self.row.created_at).total_seconds()


class Crowd:
    """`sizes` says how many runs each project queues, in that order. Imports an image for each."""

    def __init__(self, service: Service, sizes: Mapping[str, int]) -> None:
        self._service = service
        self._sizes = sizes
        self.took_s = 0.0
        image = small_image()
        with running_registry() as registry:
            url = registry.push(image.layout, image.tag, image.repository)
            self._images = {project: self._import(project, url) for project in sizes}

    def run(self) -> list[Ended]:
        """Queue all, wait for all; return them in the order in which they were started."""
        began = time.monotonic()
        queued: dict[UUID, tuple[str, int]] = {}
        with ExitStack() as stack:
            for project, count in self._sizes.items():
                api = stack.enter_context(closing(self._api(project)))
                for number in range(count):
                    operation = api.spawn(
                        self._images[project], COMMAND.format(number=f"{project} {number}")
                    )
                    queued[UUID(operation)] = (project, number)
                progress(f"{len(queued)} queued")
        ended = self._service.with_core(lambda core: self._ended(core, queued))
        self.took_s = time.monotonic() - began
        return ended

    def _import(self, project: str, url: str) -> str:
        with closing(self._api(project)) as api:
            return api.import_image(url)

    def _api(self, project: str) -> Api:
        server = self._service.server
        return Api(server.url, server.token(project))

    async def _ended(self, core: Core, queued: Mapping[UUID, tuple[str, int]]) -> list[Ended]:
        ids = list(queued)
        deadline = time.monotonic() + PATIENCE_S + LATEST_S * len(ids)
        while True:
            states = Counter(row["status"] for row in await core.database.fetch(STATES, ids))
            progress(f"{dict(states)}")
            if not states.keys() & {"PENDING", "ASSIGNED", "EXECUTING"}:
                break
            assert time.monotonic() < deadline, f"the runs do not end: {dict(states)}"
            await asyncio.sleep(POLL_S)
        projects = {row.project_name: row.project_id for row in await core.tokens.list()}
        ended = []
        for id_, (project, number) in queued.items():
            row = await core.operations.get(projects[project], id_)
            assert row is not None
            ended.append(Ended(project=project, number=number, row=row))
        return sorted(ended, key=lambda one: one.row.started_at or one.row.created_at)


def stock_of(service: Service) -> Stock:
    """Wait until nothing runs, then count."""
    server = service.server
    deadline = time.monotonic() + QUIET_S
    while server.qemus() or _scratch_files(service):
        assert time.monotonic() < deadline, f"left: {server.qemus()} {_scratch_files(service)}"
        time.sleep(POLL_S)
    processes = [p for p in server.processes() if "postgres" not in p.command.split(" ")[0]]
    ours = [p for p in processes if p.pid == server.pid or "contree worker" in p.command]
    connections, pooled, opened = _opened(server.dsn(), ours)
    return Stock(
        processes=Counter(_role(process, server.pid) for process in processes),
        sockets=sum(target.startswith("socket:") for target in opened) - pooled,
        descriptors=sum("/layers/" not in target for target in opened) - pooled,
        scratch_files=len(_scratch_files(service)),
        connections=connections,
        pooled=pooled,
        memory_mib={_role(process, server.pid): own_mib(process.pid) for process in ours},
    )


def late(ended: Sequence[Ended], *, at_once: int) -> list[str]:
    """Return the projects that did not get their turns, in words; `ended` in order of start.

    From the moment when all are queued, the n-th start of a project that waits comes within n
    rounds of all projects. `at_once` starts and a round are granted for what was under way.
    """
    all_queued = max(one.row.created_at for one in ended)
    starts = [
        one.project for one in ended if one.row.started_at and one.row.started_at > all_queued
    ]
    projects = set(starts)
    counts: Counter[str] = Counter()
    found = []
    for place, project in enumerate(starts):
        counts[project] += 1
        latest = (counts[project] + 1) * len(projects) + at_once
        if place > latest and project not in {text.split(":")[0] for text in found}:
            found.append(f"{project}: its start {counts[project]} was only the {place + 1}th")
    return found


def _opened(dsn: str, ours: Sequence[Process]) -> tuple[int, int, list[str]]:
    """Return connections apart from the pools, those of the pools, and what descriptors are of.

    All of one moment: the connections are the same before and after the descriptors were read.
    """
    before = asyncio.run(_connections(dsn))
    while True:
        opened = [target for process in ours for target in _descriptors(process)]
        after = asyncio.run(_connections(dsn))
        if after == before:
            return *after, opened
        before = after


async def _connections(dsn: str) -> tuple[int, int]:
    """Return how many there are apart from the pools, and of the pools."""
    connection = await asyncpg.connect(dsn)
    try:
        pooled, apart = await connection.fetchrow(CONNECTIONS, APPLICATION)
        return apart, pooled
    finally:
        await connection.close()


def _scratch_files(service: Service) -> list[Path]:
    """Return what runs have left so far; the database has a file there while it runs."""
    database = service.server.runtime_dir / "postgres"
    return [path for path in service.server.scratch_files() if database not in path.parents]


def _role(process: Process, api_pid: int) -> str:
    if process.pid == api_pid:
        return "API"
    return "worker" if "contree worker" in process.command else process.command.split(" ")[0]


def _descriptors(process: Process) -> list[str]:
    found = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found
