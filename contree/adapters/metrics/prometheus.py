"""Measurements as Prometheus reads them (app.measure_log.LogMeter, http.metrics.Exposition).

Names follow Prometheus' habits: base units, `_total` for counters, one meaning a label. Label
values come from our own words alone, never from a client, so that their number is bounded.
"""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from contree.adapters.metrics.process import process_registry
from contree.app.standing import Standing, TakeStanding
from contree.domain.errors import UnavailableError
from contree.domain.operation import Kind, Status

REQUEST_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
OPERATION_BUCKETS_S = (*(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),)
WAIT_S = 5.0
"""How long a scrape waits for the database; Prometheus itself gives up after ten seconds."""


class PrometheusMetrics:
    """Everything that one process of the API exposes."""

    def __init__(self, standing: TakeStanding) -> None:
        self._standing = standing
        self._one_scrape = asyncio.Lock()  # gauges are set and read without another in between
        self._registry = registry = process_registry()
        self._requests = Histogram(
            "contree_http_request_duration_seconds",
            "From a request to the end of its answer, streams included.",
            ("method", "route", "status"),
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._events = Counter(
            "contree_events", "Events recorded in the log.", ("topic",), registry=registry
        )
        self._guests = Counter(
            "contree_guests_started",
            "Guests started, by what they were started from.",
            ("origin", "accelerator"),
            registry=registry,
        )
        self._lost = Counter(
            "contree_operation_attempts_lost",
            "Attempts that were lost with their worker or guest and go back into the queue.",
            ("kind",),
            registry=registry,
        )
        self._handed_back = Counter(
            "contree_operation_attempts_handed_back",
            "Attempts that were interrupted and go back into the queue, without being counted.",
            ("kind",),
            registry=registry,
        )
        self._ended = Histogram(
            "contree_operation_duration_seconds",
            "From an operation's request to its end.",
            ("kind", "status"),
            buckets=OPERATION_BUCKETS_S,
            registry=registry,
        )
        self._phases = Histogram(
            "contree_operation_phase_seconds",
            "queued: until a worker takes it; prepared: until it begins; worked: until its end.",
            ("kind", "phase"),
            buckets=OPERATION_BUCKETS_S,
            registry=registry,
        )
        self._now = _Now(registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, status).observe(seconds)

    def event(self, topic: str) -> None:
        self._events.labels(topic).inc()

    def guest(self, *, origin: str, accelerator: str) -> None:
        self._guests.labels(origin, accelerator).inc()

    def queued(self, kind: Kind, seconds: float) -> None:
        self._phases.labels(kind.value, "queued").observe(seconds)

    def prepared(self, kind: Kind, seconds: float) -> None:
        self._phases.labels(kind.value, "prepared").observe(seconds)

    def worked(self, kind: Kind, seconds: float) -> None:
        self._phases.labels(kind.value, "worked").observe(seconds)

    def requeued(self, kind: Kind, *, counted: bool) -> None:
        (self._lost if counted else self._handed_back).labels(kind.value).inc()

    def ended(self, kind: Kind, status: Status, seconds: float) -> None:
        self._ended.labels(kind.value, status.value).observe(seconds)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        async with self._one_scrape:
            try:
                async with asyncio.timeout(WAIT_S):
                    self._now.show(await self._standing.now())
            except (UnavailableError, TimeoutError):
                self._now.show_nothing()
            return encode(self._registry), content_type


class _Now:
    """The gauges: what holds at the moment of a scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._database_up = Gauge(
            "contree_database_up", "Whether the database answered this scrape.", registry=registry
        )
        self._under_way = Gauge(
            "contree_operations",
            "Operations that have not ended, by state and by the worker that has them.",
            ("kind", "status", "worker"),
            registry=registry,
        )
        self._log_position = Gauge(
            "contree_log_position", "Position of the log's last event.", registry=registry
        )
        self._index_position = Gauge(
            "contree_audit_index_position",
            "Position of the last event in the audit index.",
            registry=registry,
        )
        self._checkpoint_size = Gauge(
            "contree_checkpoint_events",
            "Events under the newest signed checkpoint.",
            registry=registry,
        )
        self._checkpoint_at = Gauge(
            "contree_checkpoint_timestamp_seconds",
            "When the newest checkpoint was signed; 0 without one.",
            registry=registry,
        )

    def show(self, standing: Standing) -> None:
        self._database_up.set(1)
        self._under_way.clear()
        for kind in Kind:  # there if only as 0: an alert cannot look at what is missing
            self._under_way.labels(kind.value, Status.PENDING.value, "").set(0)
        for count in standing.under_way:
            self._under_way.labels(count.kind.value, count.status.value, count.worker or "").set(
                count.operations
            )
        self._log_position.set(standing.log_position)
        self._index_position.set(standing.index_position)
        self._checkpoint_size.set(standing.checkpoint_size)
        signed_at = standing.checkpoint_at
        self._checkpoint_at.set(0 if signed_at is None else signed_at.timestamp())

    def show_nothing(self) -> None:
        """The database is away: what was true is not shown as if it still were."""
        self._database_up.set(0)
        self._under_way.clear()
