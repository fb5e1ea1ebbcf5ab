"""What a worker knows of itself, as Prometheus reads it (http.metrics.Exposition).

What operations did is measured out of the log, by any API server (prometheus.py); here is what only
the worker's own process can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from contree.adapters.metrics.process import process_registry
from contree.app.worker_standing import WorkerStanding


class WorkerMetrics:
    """`standing` is asked at each scrape."""

    def __init__(self, standing: Callable[[], Awaitable[WorkerStanding]]) -> None:
        self._standing = standing
        self._one_scrape = asyncio.Lock()
        self._shown = _Shown()
        self._registry = process_registry()
        self._registry.register(self._shown)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        async with self._one_scrape:
            self._shown.standing = await self._standing()
            return encode(self._registry), content_type


class _Shown(Collector):
    """The standing that is shown; None before the first scrape."""

    standing: WorkerStanding | None = None

    def collect(self) -> Iterator[Metric]:
        now = self.standing
        if now is None:
            return
        running = GaugeMetricFamily(
            "contree_worker_operations", "Operations that run here.", labels=["kind"]
        )
        free = GaugeMetricFamily(
            "contree_worker_operations_free", "How many more it would take on.", labels=["kind"]
        )
        starts = CounterMetricFamily(
            "contree_worker_guest_starts", "Guests that came up, by origin.", labels=["origin"]
        )
        obstacle = GaugeMetricFamily(
            "contree_worker_obstacle", "What keeps it from taking on anything.", labels=["kind"]
        )
        if now.obstacle is not None:
            obstacle.add_metric([now.obstacle], 1)
        for kind, count in now.running.items():
            running.add_metric([kind.value], count)
        for kind, count in now.free.items():
            free.add_metric([kind.value], count)
        for origin, count in now.guests.by_origin.items():
            starts.add_metric([origin.value], count)
        yield from (running, free, obstacle, starts)
        yield CounterMetricFamily(
            "contree_worker_guest_start_fallbacks",
            "Guests that could not be restored, and were booted instead.",
            now.guests.fallbacks,
        )
        yield CounterMetricFamily(
            "contree_worker_guest_start_failures",
            "Guests that did not come up.",
            now.guests.failed,
        )
        yield GaugeMetricFamily(
            "contree_worker_guests_waiting", "Guests that wait for a run.", now.guests.waiting
        )
        yield GaugeMetricFamily(
            "contree_worker_layers_bytes",
            "What layers, and what is derived of them, take on this host's disk.",
            now.layer_bytes,
        )
        renewed_at = now.renewed_at
        yield GaugeMetricFamily(
            "contree_worker_leases_renewed_timestamp_seconds",
            "When it last renewed its leases; 0 before the first time.",
            0 if renewed_at is None else renewed_at.timestamp(),
        )
