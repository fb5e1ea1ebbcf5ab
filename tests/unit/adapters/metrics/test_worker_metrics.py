"""What Prometheus' own parser reads of what a worker knows of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as plain_text

from contree.adapters.layers.disk_use import DiskUse
from contree.adapters.metrics.worker import WorkerMetrics
from contree.app.guest.microvm import Origin
from contree.app.worker_standing import GuestStarts, WorkerStanding
from contree.domain.operation import Kind

STANDING = WorkerStanding(
    running={Kind.INSTANCE: 3, Kind.IMPORT: 0},
    free={Kind.INSTANCE: 1, Kind.IMPORT: 2},
    obstacle="disk",
    guests=GuestStarts(
        by_origin={Origin.COLD: 1, Origin.TEMPLATE: 20, Origin.WARM: 7},
        fallbacks=1,
        failed=2,
        waiting=4,
    ),
    layer_bytes=4096,
    renewed_at=datetime(2026, 1, 2, tzinfo=UTC),
)
NAME = "contree_worker_"


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
async def test_what_a_worker_knows_is_read_at_each_scrape(accept: str) -> None:
    given = [STANDING, replace(STANDING, obstacle=None, layer_bytes=8192, renewed_at=None)]

    async def standing() -> WorkerStanding:
        return given.pop(0)

    metrics = WorkerMetrics(standing)
    first, second = await scraped(metrics, accept), await scraped(metrics, accept)
    told = {name.removeprefix(NAME): value for name, value in first.items() if NAME in name}
    assert told == {
        "operations{instance}": 3,
        "operations{image_import}": 0,
        "operations_free{instance}": 1,
        "operations_free{image_import}": 2,
        "obstacle{disk}": 1,
        "guest_starts_total{cold}": 1,
        "guest_starts_total{template}": 20,
        "guest_starts_total{warm}": 7,
        "guest_start_fallbacks_total": 1,
        "guest_start_failures_total": 2,
        "guests_waiting": 4,
        "layers_bytes": 4096,
        "leases_renewed_timestamp_seconds": STANDING.renewed_at.timestamp(),
    }
    assert not [name for name in second if "obstacle" in name]
    assert second[NAME + "layers_bytes"] == 8192
    assert second[NAME + "leases_renewed_timestamp_seconds"] == 0
    assert "process_resident_memory_bytes" in first


async def scraped(metrics: WorkerMetrics, accept: str) -> Mapping[str, float]:
    text, content_type = await metrics.exposition(accept)
    parse = open_metrics if "openmetrics" in content_type else plain_text
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


def test_the_disk_use_of_a_directory_is_that_of_its_files(tmp_path: Path) -> None:
    assert DiskUse(tmp_path / "absent").measured() == 0
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"x" * 10_000)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert 10_000 <= DiskUse(tmp_path).measured() < 1 << 20
