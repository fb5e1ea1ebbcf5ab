"""What measures one process of the API for a monitoring system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contree.adapters.metrics.prometheus import PrometheusMetrics
from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.app.measure_log import MeasureLog
from contree.app.standing import TakeStanding
from contree.bootstrap.deployment import Core


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
