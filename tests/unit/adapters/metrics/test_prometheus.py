"""What Prometheus' own parser reads of what we measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as plain_text

from contree.adapters.metrics.prometheus import PrometheusMetrics
from contree.app.reads import UnderWay
from contree.app.standing import Standing, TakeStanding
from contree.domain.errors import UnavailableError
from contree.domain.operation import Kind, Status

AT = datetime(2026, 1, 2, tzinfo=UTC)


class GivenStanding(TakeStanding):
    """What a test says that holds; None: the database is away."""

    def __init__(self) -> None:
        self.given: Standing | None = Standing(
            under_way=[
                UnderWay(kind=Kind.INSTANCE, status=Status.PENDING, worker=None, operations=3),
                UnderWay(kind=Kind.INSTANCE, status=Status.EXECUTING, worker="w", operations=2),
            ],
            log_position=70,
            index_position=68,
            checkpoint_size=60,
            checkpoint_at=AT,
        )

    async def now(self) -> Standing:
        if self.given is None:
            raise UnavailableError("the database is away")
        return self.given


@pytest.fixture
def standing() -> GivenStanding:
    return GivenStanding()


@pytest.fixture
def metrics(standing: GivenStanding) -> PrometheusMetrics:
    return PrometheusMetrics(standing)


Samples = dict[str, float]


async def scraped(metrics: PrometheusMetrics, accept: str = "text/plain") -> Samples:
    """Samples by name and labels, as in `name{label=value,...}`, labels in alphabetical order."""
    text, content_type = await metrics.exposition(accept)
    parse = open_metrics if "openmetrics" in content_type else plain_text
    return {
        sample.name + named(sample.labels): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


def named(labels: Mapping[str, str]) -> str:
    inside = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return f"{{{inside}}}" if inside else ""


async def test_what_holds_now_is_read_at_each_scrape(
    metrics: PrometheusMetrics, standing: GivenStanding
) -> None:
    samples = await scraped(metrics)
    assert samples["contree_operations{kind=instance,status=PENDING,worker=}"] == 3
    assert samples["contree_operations{kind=instance,status=EXECUTING,worker=w}"] == 2
    assert samples["contree_operations{kind=image_import,status=PENDING,worker=}"] == 0
    assert samples["contree_log_position"] == 70
    assert samples["contree_audit_index_position"] == 68
    assert samples["contree_checkpoint_events"] == 60
    assert samples["contree_checkpoint_timestamp_seconds"] == AT.timestamp()
    assert samples["contree_database_up"] == 1
    assert samples["process_resident_memory_bytes"] > 0

    standing.given = None
    samples = await scraped(metrics)
    assert samples["contree_database_up"] == 0
    assert not [key for key in samples if key.startswith("contree_operations{")]


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_what_happened_is_counted(metrics: PrometheusMetrics, accept: str) -> None:
    metrics.event("contree.tag.moved")
    metrics.event("contree.tag.moved")
    metrics.guest(origin="template", accelerator="tcg")
    metrics.queued(Kind.INSTANCE, 0.2)
    metrics.prepared(Kind.INSTANCE, 0.3)
    metrics.worked(Kind.INSTANCE, 0.4)
    metrics.requeued(Kind.IMPORT, counted=True)
    metrics.requeued(Kind.INSTANCE, counted=False)
    metrics.ended(Kind.INSTANCE, Status.SUCCESS, 0.9)
    metrics.answered("GET", "/v1/images", 200, 0.002)
    samples = await scraped(metrics, accept)
    assert samples["contree_events_total{topic=contree.tag.moved}"] == 2
    assert samples["contree_guests_started_total{accelerator=tcg,origin=template}"] == 1
    assert samples["contree_operation_attempts_lost_total{kind=image_import}"] == 1
    assert samples["contree_operation_attempts_handed_back_total{kind=instance}"] == 1
    assert "contree_operation_attempts_lost_total{kind=instance}" not in samples
    for phase, seconds in (("queued", 0.2), ("prepared", 0.3), ("worked", 0.4)):
        sum_ = f"contree_operation_phase_seconds_sum{{kind=instance,phase={phase}}}"
        assert samples[sum_] == seconds
    duration = "contree_operation_duration_seconds"
    assert samples[f"{duration}_count{{kind=instance,status=SUCCESS}}"] == 1
    assert samples[f"{duration}_bucket{{kind=instance,le=1.0,status=SUCCESS}}"] == 1
    assert samples[f"{duration}_bucket{{kind=instance,le=0.5,status=SUCCESS}}"] == 0
    answered = "{method=GET,route=/v1/images,status=200}"
    assert samples[f"contree_http_request_duration_seconds_count{answered}"] == 1
