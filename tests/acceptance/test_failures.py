"""Parts that break under a running server of its own: guests, QEMU, the worker, the database."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus

import pytest

from tests.acceptance.api import HELD, TERMINAL, Api, Ran
from tests.acceptance.follower import COUNTING
from tests.acceptance.log_reader import history, steps
from tests.support.server import RunningServer, running_server

WAIT_S = 300
SLOTS = 4
"""More than there are cores: one guest is frozen for as long as its silence is borne."""


@pytest.fixture(scope="module")
def server(server: RunningServer) -> Iterator[RunningServer]:
    """A server for this module alone."""
    environment = {
        "CONTREED_INSTANCES_HERE": str(SLOTS),
        "CONTREED_CPU_OVERCOMMIT": str(SLOTS),
    }
    with running_server(environment=environment, after=server) as running:
        yield running


def new_qemu(server: RunningServer, known: set[int]) -> int:
    """Wait for a QEMU that is not among `known`; return its pid."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for process in server.qemus():
            if process.pid not in known:
                return process.pid
        time.sleep(0.01)
    raise AssertionError("no QEMU was started")


def spawn_with_qemu(server: RunningServer, api: Api, image: str, command: str) -> tuple[str, int]:
    """Start a run; return it and its QEMU's pid once the command has written something."""
    known = {process.pid for process in server.qemus()}
    uuid = api.spawn(image, command, **HELD)
    pid = new_qemu(server, known)
    wait_for_event(api, uuid, "stdout")
    return uuid, pid


async def let_go_at_attempt(server: RunningServer, api: Api, uuid: str, number: int) -> None:
    """Let the command go on once its attempt `number` has begun."""
    deadline = time.monotonic() + WAIT_S
    while steps(told := await history(server, uuid)).count("started") < number:
        assert time.monotonic() < deadline, steps(told)
    api.let_go(uuid)


def wait_for_event(api: Api, uuid: str, type_: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while type_ not in {event["type"] for event in api.events(uuid)}:
        assert time.monotonic() < deadline, f"{type_} never came: {api.operation(uuid)}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def frozen(server: RunningServer, api: Api, busybox: str) -> str:
    """A run whose QEMU has been stopped in the middle; a test after some others looks at it."""
    uuid, pid = spawn_with_qemu(server, api, busybox, "echo up; sleep 600")
    os.kill(pid, signal.SIGSTOP)
    return uuid


def want_failed(api: Api, uuid: str, *words: str) -> None:
    operation = api.wait(uuid)
    assert (operation["status"], operation["result"]) == ("FAILED", None)
    assert any(word in operation["error"] for word in words), operation["error"]
    assert api.events(uuid)[-1]["data"]["status"] == "FAILED"


@pytest.mark.usefixtures("frozen")
async def test_a_guest_whose_kernel_panics_is_a_failure(
    server: RunningServer, api: Api, busybox: str
) -> None:
    panic = "echo before; read held; echo c >/proc/sysrq-trigger; sleep 600"
    uuid = api.spawn(busybox, panic, **HELD)
    wait_for_event(api, uuid, "stdout")  # a panic takes what is on its way with it
    api.http.post(f"/operations/{uuid}/subprocesses/1/stdin", json={"value": ""})
    want_failed(api, uuid, "panic")
    assert "before" in str(api.events(uuid))
    # The command had begun: running it again is the caller's decision.
    assert steps(await history(server, uuid)).count("assigned") == 1


async def test_qemu_killed_from_outside_is_tried_again(
    server: RunningServer, api: Api, busybox: str
) -> None:
    uuid, pid = spawn_with_qemu(server, api, busybox, "echo up; read held; echo done")
    os.kill(pid, signal.SIGKILL)
    await let_go_at_attempt(server, api, uuid, 2)
    ran = Ran(operation=api.wait(uuid)).want_exit()
    assert ran.stdout == b"up\ndone\n"
    assert [e["type"] for e in api.events(uuid)].count("init") == 1
    told = await history(server, uuid)
    assert steps(told).count("assigned") == 2
    (requeued,) = [facts for what, facts in told if what == "requeued"]
    assert "QEMU was killed" in requeued["reason"]


async def test_qemu_killed_each_time_is_given_up(
    server: RunningServer, api: Api, busybox: str
) -> None:
    known = {process.pid for process in server.qemus()}
    uuid = api.spawn(busybox, "sleep 600")
    # A kill while a guest is being restored costs no attempt: it is booted cold instead.
    while api.operation(uuid)["status"] not in TERMINAL:
        for process in server.qemus():
            if process.pid not in known:
                known.add(process.pid)
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
    want_failed(api, uuid, "gave up after 3 attempts")
    assert steps(await history(server, uuid)).count("requeued") == 2


def test_a_command_that_eats_all_memory_is_killed_in_its_guest_alone(
    api: Api, busybox: str
) -> None:
    eat = "dd if=/dev/zero of=/dev/null bs=300M count=2 2>/dev/null"
    command = f"{eat} & a=$!; {eat} & wait $!; b=$?; wait $a; echo $? $b"
    ran = api.run(busybox, command, disposable=True, timeout=600)
    assert "137" in ran.want_exit().stdout.decode().split()


def test_a_client_that_goes_away_takes_nothing_with_it(
    server: RunningServer, token: str, busybox: str, api_of: Callable[..., Api]
) -> None:
    hasty = api_of(server, token)
    uuid = hasty.spawn(busybox, "sleep 1; echo finished")
    with hasty.http.stream("GET", f"/operations/{uuid}/events", params={"follow": 1}) as answer:
        next(answer.iter_raw())
    assert Ran(operation=hasty.wait(uuid)).want_exit().stdout == b"finished\n"


async def test_a_frozen_guest_is_given_up(server: RunningServer, api: Api, frozen: str) -> None:
    want_failed(api, frozen, "said nothing", "no answer")
    assert steps(await history(server, frozen))[-1] == "failed"


def postmaster(server: RunningServer) -> int | None:
    """Return the pid of PostgreSQL's first process, None while it is not there."""
    try:
        lines = (server.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    return int(lines[0]) if lines else None


async def test_a_worker_killed_is_started_again_and_its_runs_too(
    server: RunningServer, api: Api, busybox: str
) -> None:
    uuid, qemu = spawn_with_qemu(server, api, busybox, "echo up; read held; echo done")
    os.kill(server.worker_pid, signal.SIGKILL)
    await let_go_at_attempt(server, api, uuid, 2)
    ran = Ran(operation=api.wait(uuid)).want_exit()
    assert ran.stdout == b"up\ndone\n"
    told = await history(server, uuid)
    assert steps(told).count("requeued") == 1
    assert qemu not in {process.pid for process in server.qemus()}


def kill_database(server: RunningServer, api: Api) -> None:
    """Kill PostgreSQL, and wait until it is there again."""
    killed = postmaster(server)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    # Its sessions outlive it by a moment, and answer: only another one's answers count.
    while (
        postmaster(server) in {killed, None}
        or not server.is_ready()
        or api.http.get("/operations").status_code != HTTPStatus.OK
    ):
        assert time.monotonic() < deadline, "the database did not come back"
        time.sleep(0.05)


async def test_a_run_that_writes_all_the_time_goes_on_through_restarts_of_the_database(
    server: RunningServer, api: Api, busybox: str
) -> None:
    uuid = api.spawn(busybox, COUNTING, **HELD)
    wait_for_event(api, uuid, "stdout")
    for _ in range(3):
        before = api.events(uuid)[-1]["id"]
        kill_database(server, api)
        deadline = time.monotonic() + WAIT_S
        while api.events(uuid)[-1]["id"] <= before + 3:
            assert time.monotonic() < deadline, api.operation(uuid)
            await asyncio.sleep(0.05)
    api.let_go(uuid)
    ran = Ran(operation=api.wait(uuid)).want_exit()
    events = api.events(uuid)
    shown = "".join(e["data"]["value"] for e in events if e["type"] == "stdout")
    count = shown.count("\n")
    assert shown == "".join(f"{number}\n" for number in range(count))
    assert shown.encode().startswith(ran.stdout), "of which the client asked for so much"
    assert [e["id"] for e in events] == list(range(len(events)))
    told = await history(server, uuid)
    assert (steps(told).count("assigned"), steps(told).count("requeued")) == (1, 0)


def test_a_database_killed_is_back_with_everything_acknowledged(
    server: RunningServer, api: Api, busybox: str
) -> None:
    before = {operation["uuid"] for operation in api.get("/operations", limit=1000)}
    running = api.spawn(busybox, "echo up; sleep 4; echo survived >/kept")
    wait_for_event(api, running, "stdout")
    waiting = [api.spawn(busybox, f"echo {i}") for i in range(SLOTS)]
    kill_database(server, api)
    now = {operation["uuid"] for operation in api.get("/operations", limit=1000)}
    assert now == before | {running, *waiting}
    for i, uuid in enumerate(waiting):
        assert Ran(operation=api.wait(uuid)).want_exit().stdout == f"{i}\n".encode()
    survivor = api.wait(running)
    assert survivor["status"] == "SUCCESS", survivor["error"]
    assert api.download(survivor["result_image_uuid"], "/kept") == b"survived\n"


def test_after_all_that_the_read_models_are_what_the_log_says(server: RunningServer) -> None:
    assert "are equal" in server.contreed("projections", "rebuild", "--check").stdout
    assert server.contreed("token", "list").stdout
    deadline = time.monotonic() + WAIT_S
    while server.qemus() or server.scratch_files() != _of_a_server_at_rest(server):
        assert time.monotonic() < deadline, (server.qemus(), server.scratch_files())
        time.sleep(0.1)


def _of_a_server_at_rest(server: RunningServer) -> list[object]:
    return [path for path in server.scratch_files() if path.name == ".s.PGSQL.5432.lock"]
