"""How many events a second does a rebuild of the read models fold, beside only decoding them?

The log holds runs from request to end, made by the service's own adapter. Ours: `projections
rebuild` as the command does it, new tables with their indexes, swapped in at the end; and the
comparison, as `--check` does it. The reference: the same rows read in the same batches and decoded
to the same events, nothing done with them.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid5

import asyncpg
from eventsourcing.persistence import StoredEvent

from bench._measure import Report, Target, progress
from contree import projections
from contree.adapters.postgres.embedded import EmbeddedPostgres
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.migrate import migrate
from contree.adapters.postgres.pool import open_pool
from contree.adapters.postgres.rebuild import BATCH_EVENTS, EVENTS, compare, rebuild
from contree.adapters.postgres.transcoder import event_mapper
from contree.domain.aggregate import Aggregate
from contree.domain.context import Context
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.instance import InstanceSpec
from contree.domain.operation import Operation
from contree.domain.outcome import CapturedStream, ProcessOutcome
from contree.domain.project import NAMESPACE

RUNS = 20_000
"""Each has five events, one of them its image's."""
WRITERS = 32
ROUNDS = 5
WRITING_PAUSE_S = 0.002
DECODED = "the same rows read and decoded, nothing done with them"
NO_OUTPUT = CapturedStream(sha256="0" * 64, size_bytes=0)


def main() -> None:
    report = Report("rebuild", __doc__.splitlines()[0])
    with report.running(), tempfile.TemporaryDirectory(prefix="bench-") as directory:
        asyncio.run(_measure(report, Path(directory)))


async def _measure(report: Report, directory: Path) -> None:
    server = EmbeddedPostgres(directory / "data", directory / "run")
    await server.start()
    try:
        await migrate(server.dsn, projections=projections.ALL)
        pool = await open_pool(server.dsn)
        async with pool:
            log = PostgresEventLog(pool, projections.ALL)
            progress(f"appending {RUNS:,} runs")
            await _fill(log, itertools.islice(_runs(0), RUNS))
            await _compare(report, server.dsn, log)
    finally:
        await server.stop()


async def _fill(log: PostgresEventLog, runs: Iterator[tuple[Aggregate, ...]]) -> None:
    async def keep_writing() -> None:
        for run in runs:
            await log.append(*run)

    await asyncio.gather(*(keep_writing() for _ in range(WRITERS)))


async def _compare(report: Report, dsn: str, log: PostgresEventLog) -> None:
    async def rebuilding() -> int:
        return (await rebuild(dsn, projections=projections.ALL)).event_count

    async def comparing() -> int:
        return (await compare(dsn, projections=projections.ALL)).event_count

    sides: dict[str, Callable[[], Awaitable[int]]] = {
        "rebuild": rebuilding,
        "decode": lambda: _decode(dsn),
        "compare": comparing,
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS):
        for name, side in sides.items():
            progress(f"{number + 1}/{ROUNDS} {name}")
            began = time.perf_counter()
            rates[name].append(await side() / (time.perf_counter() - began))
    report.add(
        f"rebuild, {RUNS * 5:,} events",
        "events/s",
        rates["rebuild"],
        rates["decode"],
        reference_name=DECODED,
        targets=(Target(of="ours", at_least=30_000),),
    )
    report.add("- comparison of live and rebuilt", "events/s", rates["compare"])
    quiet = await _append_ms(log, _runs(10), while_=asyncio.sleep(2))
    busy = await _append_ms(log, _runs(20), while_=rebuild(dsn, projections=projections.ALL))
    report.add(
        "- longest append during a rebuild",
        "ms",
        [max(busy)],
        [max(quiet)],
        reference_name="without a rebuild",
    )


async def _decode(dsn: str) -> int:
    mapper, last_id, count = event_mapper(), 0, 0
    connection = await asyncpg.connect(dsn)
    try:
        while rows := await connection.fetch(EVENTS, last_id, BATCH_EVENTS):
            for row in rows:
                mapper.to_domain_event(StoredEvent(*row[:4]))
            last_id, count = rows[-1]["notification_id"], count + len(rows)
    finally:
        await connection.close()
    return count


async def _append_ms(
    log: PostgresEventLog,
    runs: Iterator[tuple[Aggregate, ...]],
    *,
    while_: Awaitable[object],
) -> list[float]:
    """How long each append took that one writer made, now and then, until `while_` was done."""
    meanwhile = asyncio.ensure_future(while_)
    took: list[float] = []
    while not meanwhile.done():
        began = time.perf_counter()
        await log.append(*next(runs))
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(WRITING_PAUSE_S)
    await meanwhile
    return took


def _runs(space: int) -> Iterator[tuple[Aggregate, ...]]:
    """Yield run after run, all that happened to it pending. Those of two spaces share no id."""
    project_id = uuid5(NAMESPACE, "project")
    base = Image.imported(
        Context(actor="bench", project_id=project_id, request_id="import", at=datetime.now(UTC)),
        operation_id=uuid5(NAMESPACE, "import"),
        registry_url="docker://registry/image:tag",
        manifest_digest=f"sha256:{'1' * 64}",
        config_digest=f"sha256:{'2' * 64}",
        layers=[f"sha256:{'3' * 64}"],
        environment=RecordedEnvironment(env={"PATH": "/usr/bin:/bin"}),
        workdir="/",
        size_bytes=1,
    )
    for number in itertools.count():
        at = datetime.now(UTC)
        context = Context(
            actor="bench", project_id=project_id, request_id=f"request-{number}", at=at
        )
        id_ = UUID(int=((space << 64) + number) * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128)
        spec = InstanceSpec(image_id=base.id, command="true", timeout_s=30)
        run = Operation.request_instance(context, operation_id=id_, spec=spec)
        run.assign(context, worker="bench", lease_until=at + timedelta(minutes=1))
        run.start(context, accelerator="kvm", network=None)
        image = base.committed(
            context,
            operation_id=id_,
            layer=f"sha256:{number:064x}",
            workdir="/",
            size_bytes=number,
        )
        assert image is not None
        outcome = ProcessOutcome(
            pid=7,
            exit_code=0,
            signal=-1,
            core_dumped=False,
            timed_out=False,
            oom_killed=False,
            duration_us=1000,
            stdout=NO_OUTPUT,
            stderr=NO_OUTPUT,
        )
        run.succeed(context, result_image_id=image.id, image_size_bytes=number, outcome=outcome)
        yield run, image


if __name__ == "__main__":
    main()
