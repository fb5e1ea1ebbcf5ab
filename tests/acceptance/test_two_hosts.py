"""Two hosts over one PostgreSQL and one S3: what one has run, the other branches from.

Each host is a data directory with processes of its own; nothing else leads from one to the other.
"""

from __future__ import annotations

import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from contree.adapters.blobs.s3_objects import S3Place
from tests.acceptance.api import Api, Ran
from tests.acceptance.log_reader import history
from tests.acceptance.scrape import samples_at
from tests.support.postgres import dsn_for, execute
from tests.support.s3 import client_of, variables_of
from tests.support.server import RunningServer
from tests.support.split import Split

DATABASE = "two_hosts"


class Host(Split):
    """`name` is its worker's."""

    def __init__(self, name: str, common: dict[str, str]) -> None:
        environment = {
            **common,
            "CONTREED_WORKER_NAME": name,
            "CONTREED_METRICS_LISTEN": "127.0.0.1:0",
            "CONTREED_LAYER_CACHE_GIB": "1",
        }
        directory = Path(tempfile.mkdtemp(prefix=f"contree-{name}-"))
        super().__init__(RunningServer(directory, environment=environment), environment)


@pytest.fixture
async def hosts(server: RunningServer, s3_place: S3Place) -> AsyncIterator[tuple[Host, Host]]:
    """`one` has an API and a worker that run, `two` has nothing yet."""
    place = replace(s3_place, bucket="two-hosts")
    client_of(place).create_bucket(Bucket=place.bucket)
    owner_dsn = server.dsn()
    await execute(owner_dsn, f"CREATE DATABASE {DATABASE}")
    common = {
        **variables_of(place),
        "CONTREED_DATABASE_URL": dsn_for(owner_dsn, DATABASE),
        "CONTREED_STORE": f"s3://{place.bucket}/contree",
    }
    one, two = Host("one", common), Host("two", common)
    try:
        one.place.learn_from(server)
        two.place.learn_from(server)
        one.start("api")
        one.start("worker")
        shutil.copytree(one.place.data_dir / "keys", two.place.data_dir / "keys")
        yield one, two
        two.end("worker", signal.SIGTERM)
        one.end("api", signal.SIGTERM)
        for host in (one, two):
            host.place.stop()  # nothing runs, nothing is left
    finally:
        with ExitStack() as stack:
            for host in (one, two):
                stack.callback(host.place.remove)
                stack.callback(host.stop)
        await execute(owner_dsn, f"DROP DATABASE {DATABASE} WITH (FORCE)")


async def test_a_run_of_one_host_is_branched_on_the_other(
    hosts: tuple[Host, Host], busybox_url: str
) -> None:
    one, two = hosts
    with closing(Api(one.url, one.place.token("fleet"))) as api:
        base = api.import_image(busybox_url)
        trunk = api.run(base, "echo trunk > /choice; echo made >&2")
        one.end("worker", signal.SIGTERM)
        two.start("worker")
        assert layers(two) == set()
        branch = api.run(trunk.image, "cat /choice; echo branch > /choice")
        assert branch.stdout == b"trunk\n"
        assert await workers(one, trunk.uuid) == ["one"]
        assert await workers(one, branch.uuid) == ["two"]
        # The API is on the first host, which has neither run it nor had its layer.
        assert layers(two) - layers(one), "made on the second"
        assert api.download(branch.image, "/choice") == b"branch\n"
        assert api.download(trunk.image, "/choice") == b"trunk\n"
        assert layers(two) == layers(one)
    assert "hit a defect" not in one.place.log_text + two.place.log_text
    measured = scraped(two)
    starts = [
        n for (name, *_), n in measured.items() if name == "contree_worker_guest_starts_total"
    ]
    assert sum(starts) == 1, "it has carried out one run"
    assert measured["contree_worker_guest_start_failures_total",] == 0
    assert measured["contree_worker_layers_bytes",] > 0
    assert measured["contree_worker_leases_renewed_timestamp_seconds",] > 0
    assert ("contree_worker_operations_free", "instance") in measured


async def test_a_host_without_room_leaves_runs_to_the_other(
    hosts: tuple[Host, Host], busybox_url: str
) -> None:
    one, two = hosts
    with closing(Api(one.url, one.place.token("fleet"))) as api:
        base = api.import_image(busybox_url)
        one.end("worker", signal.SIGTERM)
        one.environment["CONTREED_DISK_RESERVE_MIB"] = str(1024**3)  # more than any disk has
        one.start("worker")
        two.start("worker")
        uuids = [api.spawn(base, f"echo {number}") for number in range(3)]
        for number, uuid in enumerate(uuids):
            assert Ran(operation=api.wait(uuid)).want_exit().stdout == f"{number}\n".encode()
            assert await workers(one, uuid) == ["two"]
        one.end("worker", signal.SIGTERM)
    assert "claims nothing, disk: " in one.place.log_text


def scraped(host: Host) -> dict[tuple[str, ...], float]:
    """What the host's worker tells a monitoring system."""
    found = re.search(r"metrics of worker \S+ are at (\S+)", host.place.log_text)
    assert found is not None
    return samples_at(found[1])


def layers(host: Host) -> set[str]:
    return {path.name for path in (host.place.data_dir / "layers").glob("?" * 64)}


async def workers(host: Host, operation: str) -> list[str]:
    """The workers that were given the operation, as the log has it."""
    told = await history(host.place, operation)
    return [facts["worker"] for what, facts in told if what == "assigned"]
