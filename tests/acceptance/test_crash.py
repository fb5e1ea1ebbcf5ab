"""`serve` killed, interrupted and started twice on one data directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from infra.images.registry import RunningRegistry
from tests.acceptance.api import HELD, Api, Ran
from tests.acceptance.conftest import TWO_AT_ONCE
from tests.acceptance.log_reader import history, query, steps
from tests.support.registry import publish, tar_of
from tests.support.server import CONTREED, RunningServer, running_server

WAIT_S = 300


@pytest.fixture(scope="module")
def server(server: RunningServer) -> Iterator[RunningServer]:
    """A server for this module alone."""
    environment = {**TWO_AT_ONCE, "CONTREED_DRAIN_TIMEOUT": "3000"}
    with running_server(environment=environment, after=server) as running:
        yield running


@pytest.fixture
def connected(server: RunningServer, token: str) -> Iterator[list[Api]]:
    """A place for clients of the server's present life; its address changes with each."""
    made: list[Api] = []
    yield made
    for client in made:
        client.close()


def reconnect(server: RunningServer, token: str, made: list[Api]) -> Api:
    made.append(Api(server.url, token))
    return made[-1]


def wait_until_executing(api: Api, uuids: list[str], count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while sum(api.operation(uuid)["status"] == "EXECUTING" for uuid in uuids) < count:
        assert time.monotonic() < deadline, [api.operation(uuid)["status"] for uuid in uuids]
        time.sleep(0.05)


async def test_after_a_crash_everything_acknowledged_ends_by_itself(
    server: RunningServer,
    token: str,
    api: Api,
    busybox: str,
    registry: RunningRegistry,
    connected: list[Api],
) -> None:
    big = publish(registry, "crash/big", [tar_of([("big", bytes(60 << 20))])]).url
    runs = [api.spawn(busybox, f"sleep 3; echo {i} >/made; cat /made") for i in range(4)]
    wait_until_executing(api, runs, 2)
    for qemu in server.qemus():  # however long the rest takes, these do not end before the crash
        os.kill(qemu.pid, signal.SIGSTOP)
    imported = api.request_import(big)
    assert api.wait_for(imported, {"ASSIGNED", "EXECUTING"})["status"] != "FAILED"
    file = api.upload(b"kept over the crash")
    assert server.qemus()

    server.kill()
    server.start()

    again = reconnect(server, token, connected)
    for i, uuid in enumerate(runs):
        ran = Ran(operation=again.wait(uuid, within_s=WAIT_S)).want_exit()
        assert ran.stdout == f"{i}\n".encode()
        assert again.download(ran.image, "/made") == f"{i}\n".encode()
        # Followers of either life see one whole story with one end.
        types = [event["type"] for event in again.events(uuid)]
        assert (types.count("completion"), types[-1]) == (1, "completion")
    ended = again.wait(imported, within_s=WAIT_S)
    assert ended["status"] == "SUCCESS"
    assert len(again.download(ended["result_image_uuid"], "/big")) == 60 << 20
    assert again.upload(b"kept over the crash") == file

    stories = [await history(server, uuid) for uuid in (*runs, imported)]
    cut = [story for story in stories if "requeued" in steps(story)]
    assert len(cut) >= 2
    for story in cut:
        (reason,) = [facts["reason"] for what, facts in story if what == "requeued"]
        assert reason
    for story in stories:
        assert steps(story)[-2:] == ["started", "succeeded"]
    assert await query(server, "SELECT * FROM public.sealed_secrets") == []
    want_nothing_of_the_crash_left(server)
    assert "are equal" in server.contreed("projections", "rebuild", "--check").stdout


def want_nothing_of_the_crash_left(server: RunningServer) -> None:
    deadline = time.monotonic() + WAIT_S
    while server.qemus() or [
        path for path in server.scratch_files() if not path.name.startswith(".s.PGSQL")
    ]:
        assert time.monotonic() < deadline, (server.qemus(), server.scratch_files())
        time.sleep(0.05)


async def test_an_interrupt_lets_what_runs_come_to_its_end(
    server: RunningServer, token: str, busybox: str, connected: list[Api]
) -> None:
    api = reconnect(server, token, connected)
    running = api.spawn(busybox, "read held; echo done", **HELD)
    wait_until_executing(api, [running], 1)
    server.ask_to_stop()
    waiting = api.spawn(busybox, "echo waited")
    assert api.operation(waiting)["status"] == "PENDING", "it is answered until the worker is gone"
    api.let_go(running)
    server.want_stopped()
    server.want_no_processes()

    server.start()
    again = reconnect(server, token, connected)
    assert Ran(operation=again.operation(running)).want_exit().stdout == b"done\n"
    assert steps(await history(server, running)).count("assigned") == 1
    assert Ran(operation=again.wait(waiting)).want_exit().stdout == b"waited\n"


async def test_a_second_interrupt_stops_at_once_and_hands_runs_back(
    server: RunningServer, token: str, busybox: str, connected: list[Api]
) -> None:
    api = reconnect(server, token, connected)
    long = [api.spawn(busybox, "sleep 600") for _ in range(2)]
    waiting = api.spawn(busybox, "echo waited")
    wait_until_executing(api, long, 2)
    server.ask_to_stop()
    server.interrupt()
    server.want_no_processes()
    assert server.scratch_files() == []

    server.start()
    again = reconnect(server, token, connected)
    for uuid in long:
        told = await history(server, uuid)
        assert steps(told)[:4] == ["instance_requested", "assigned", "started", "requeued"]
        assert told[3][1]["reason"].endswith(" was stopped")
        assert told[3][1]["counted"] is False
        assert again.cancel(uuid) == 202
    assert Ran(operation=again.wait(waiting)).want_exit().stdout == b"waited\n"
    for uuid in long:
        assert again.wait(uuid)["status"] == "CANCELLED"


def test_a_second_serve_on_the_same_data_is_refused(server: RunningServer, busybox: str) -> None:
    done = subprocess.run(
        [CONTREED, "serve", "--data-dir", server.data_dir, "--listen", "127.0.0.1:0"],
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 1
    assert "another `contreed serve` runs" in done.stderr
    assert str(server.data_dir) in done.stderr
    assert "Traceback" not in done.stderr
    assert server.is_ready()


def test_an_address_in_use_is_refused_and_the_database_stopped(
    server: RunningServer, busybox: str
) -> None:
    directory = server.directory / "other"
    other = RunningServer(directory)
    taken = server.url.removeprefix("http://")
    try:
        done = subprocess.run(
            [CONTREED, "serve", "--data-dir", other.data_dir, "--listen", taken],
            check=False,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == 1
        assert "listen: cannot listen on" in done.stderr
        other.want_no_processes()
    finally:
        other.remove()
