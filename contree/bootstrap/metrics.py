"""What measures one process, of the API or a worker, for a monitoring system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contree.adapters.layers.disk_use import DiskUse
from contree.adapters.metrics.prometheus import PrometheusMetrics
from contree.adapters.metrics.worker import WorkerMetrics
from contree.adapters.microvm.runner import LibvirtMicroVM
from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.app.measure_log import MeasureLog
from contree.app.standing import TakeStanding
from contree.app.worker_standing import WorkerStanding
from contree.bootstrap.deployment import Core
from contree.worker.loop import Worker


@asynccontextmanager
async def measured(core: Core) -> AsyncIterator[PrometheusMetrics]:
    """Follow the log and measure until the end of the context."""
    standing = TakeStanding(
        recorded=core.recorded,
        operations=core.operations,
        index=core.history.progress,
        tree=core.proof.tree,
    )
    metrics = PrometheusMetrics(standing)
    follow = MeasureLog(
        recorded=core.recorded,
        operations=core.operations,
        decode=OrjsonTranscoder().decode,
        meter=metrics,
    )
    following = asyncio.create_task(follow.run(), name="metrics")
    try:
        yield metrics
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def worker_metrics(core: Core, worker: Worker, machines: LibvirtMicroVM) -> WorkerMetrics:
    """What a worker knows of itself."""
    disk_use = DiskUse(core.settings.data_dir / "layers")

    async def standing() -> WorkerStanding:
        layer_bytes = await asyncio.to_thread(disk_use.measured)
        obstacle = worker.obstacle
        return WorkerStanding(
            running=worker.running,
            free=worker.free(),
            obstacle=None if obstacle is None else obstacle.kind,
            guests=machines.starts(),
            layer_bytes=layer_bytes,
            renewed_at=worker.renewed_at,
        )

    return WorkerMetrics(standing)
