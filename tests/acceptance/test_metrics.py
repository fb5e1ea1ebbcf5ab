"""A monitoring system beside a real server: what it reads after a real run."""

from __future__ import annotations

import re
import time
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.api import Api
from tests.support.server import RunningServer

WAIT_S = 300


def scraped(server: RunningServer) -> dict[tuple[str, ...], float]:
    """Samples by name and label values, labels in alphabetical order."""
    found = re.search(r"metrics are at (http://\S+)", server.log_text)
    assert found is not None
    with urllib.request.urlopen(found[1], timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_is_measured(server: RunningServer, api: Api, busybox: str) -> None:
    ended = ("contree_operation_duration_seconds_count", "instance", "SUCCESS")
    request = ("contree_http_request_duration_seconds_count", "POST", "/v1/instances", "201")
    before = scraped(server)
    assert api.wait(api.spawn(busybox, "true", disposable=True))["status"] == "SUCCESS"
    deadline = time.monotonic() + WAIT_S
    while (after := scraped(server)).get(ended, 0) == before.get(ended, 0):
        assert time.monotonic() < deadline, "the end was never measured"
        time.sleep(0.02)  # what measures the log follows it: it may hear of the end after us
    assert after[ended] == before.get(ended, 0) + 1
    assert after[request] == before.get(request, 0) + 1
    guests = [n for (name, *_), n in after.items() if name == "contree_guests_started_total"]
    assert sum(guests) >= 1
    assert after["contree_log_position",] > before["contree_log_position",]
    assert after["contree_database_up",] == 1
    for phase in ("queued", "prepared", "worked"):
        assert after["contree_operation_phase_seconds_count", "instance", phase] >= 1
