"""A server that keeps a guest waiting for the run to come: who uses it, and what is left of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.api import HELD, Api
from tests.acceptance.log_reader import history
from tests.acceptance.scrape import Samples, samples_at
from tests.support.server import ANY_PORT, RunningServer, running_server

WAIT_S = 300
STARTS = "contree_worker_guest_starts_total"


@pytest.fixture(scope="module")
def server(server: RunningServer) -> Iterator[RunningServer]:
    """A server for this module alone; when it ends, the guest that waits is gone too."""
    environment = {"CONTREED_WARM_GUESTS": "1", "CONTREED_WORKER_METRICS_LISTEN": ANY_PORT}
    with running_server(environment=environment, after=server) as running:
        yield running


def with_one_waiting(server: RunningServer) -> Samples:
    """Wait until a guest waits; return what the worker that lives tells then."""
    deadline = time.monotonic() + WAIT_S
    url = re.findall(r"metrics of worker \S+ are at (\S+)", server.log_text)[-1]
    while (samples := samples_at(url))["contree_worker_guests_waiting",] < 1:
        assert time.monotonic() < deadline, "no guest waits"
        time.sleep(0.1)
    return samples


async def origin_of(server: RunningServer, uuid: str) -> str:
    (started,) = [facts for what, facts in await history(server, uuid) if what == "started"]
    return str(started["facts"]["origin"])


async def test_a_run_finds_the_guest_that_waits_and_another_takes_its_place(
    server: RunningServer, api: Api, busybox: str
) -> None:
    before = with_one_waiting(server)
    one = api.run(busybox, "cat /proc/sys/kernel/random/boot_id; echo kept >/kept").want_exit()
    assert await origin_of(server, one.uuid) == "warm"
    after = with_one_waiting(server)
    assert after[STARTS, "warm"] == before.get((STARTS, "warm"), 0) + 1
    two = api.run(one.image, "cat /proc/sys/kernel/random/boot_id; cat /kept").want_exit()
    assert await origin_of(server, two.uuid) == "warm"
    (first,), (second, kept) = one.stdout.split(), two.stdout.split()
    assert first != second
    assert kept == b"kept"


async def test_a_run_in_a_guest_that_waited_is_cancelled_as_any(
    server: RunningServer, api: Api, busybox: str
) -> None:
    with_one_waiting(server)
    uuid = api.spawn(busybox, "read held", **HELD)
    api.wait_for(uuid, {"EXECUTING"})
    assert api.cancel(uuid) == 202
    assert api.wait(uuid)["status"] == "CANCELLED"
    assert await origin_of(server, uuid) == "warm"


async def test_a_guest_that_waits_does_not_outlive_its_server(
    server: RunningServer, token: str, api: Api, busybox: str
) -> None:
    with_one_waiting(server)
    waiting = {process.pid for process in server.qemus()}
    server.kill()
    server.start()
    with_one_waiting(server)
    assert not waiting & {process.pid for process in server.qemus()}
    again = Api(server.url, token)
    try:
        ran = again.run(busybox, "echo on").want_exit()
    finally:
        again.close()
    assert ran.stdout == b"on\n"
    assert await origin_of(server, ran.uuid) == "warm"
