"""A server on a machine that lacks a program: not ready, and ready by itself once it is there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from contree.programs import OF_A_WORKER, RIPGREP, SQFSTAR
from tests.acceptance.api import Api
from tests.support.server import POLL_S, RunningServer, listening_url

WAIT_S = 300.0


class Machine:
    """What is on the PATH of a machine of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for program in OF_A_WORKER:
            if program is not SQFSTAR:
                (place / program.name).symlink_to(program.path())

    def install_it(self) -> None:
        (self.place / SQFSTAR.name).symlink_to(SQFSTAR.path())

    def remove_it(self) -> None:
        (self.place / SQFSTAR.name).unlink()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def lacking(machine: Machine) -> Iterator[RunningServer]:
    """A server that is started there; it is not waited for."""
    server = RunningServer(
        Path(tempfile.mkdtemp(prefix="contree-test-")), environment={"PATH": str(machine.place)}
    )
    try:
        with server.starting():
            until(lambda: server.log.exists() and "listening on " in server.log_text)
            server.url = listening_url(server.log_text)
            yield server
        server.stop()
    finally:
        server.remove()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(POLL_S)


def readiness(server: RunningServer) -> tuple[int, str]:
    answer = httpx.get(f"{server.url}/readyz")
    return answer.status_code, str(answer.json().get("error"))


def test_it_is_not_ready_takes_nothing_on_and_comes_back_by_itself(
    machine: Machine, lacking: RunningServer, busybox_url: str, api_of: Callable[..., Api]
) -> None:
    told = (503, f"the worker takes on nothing: {SQFSTAR.absence}")
    until(lambda: readiness(lacking) == told)
    api = api_of(lacking, lacking.token("p"))
    waiting = api.request_import(busybox_url, tag="first")

    machine.install_it()
    first = api.wait(waiting)
    assert (first["status"], first["error"]) == ("SUCCESS", None)
    assert readiness(lacking)[0] == 200

    machine.remove_it()
    until(lambda: readiness(lacking) == told)
    image = str(first["result_image_uuid"])
    runs = [api.spawn(image, "echo here") for _ in range(2)]
    again = api.request_import(busybox_url, tag="again")
    seen = lacking.log_text.count("claims nothing, programs")
    assert {api.operation(uuid)["status"] for uuid in (*runs, again)} == {"PENDING"}
    assert seen == 2, "once at the start, once now"
    machine.install_it()
    assert {api.wait(uuid)["status"] for uuid in (*runs, again)} == {"SUCCESS"}

    body = api.http.get(f"/inspect/{image}/grep", params={"pattern": "x"})
    assert (body.status_code, body.json()["error"]) == (503, RIPGREP.absence)
