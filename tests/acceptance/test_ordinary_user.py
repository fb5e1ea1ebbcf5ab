"""An ordinary user of Debian, with the PATH of a login: a server, a run, `doctor`, nothing left."""

from __future__ import annotations

import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contree.programs import ALL
from tests.acceptance.api import Api
from tests.support.ordinary_user import OrdinaryServer
from tests.support.server import started

KVM = Path("/dev/kvm")


@pytest.fixture(scope="module")
def server() -> Iterator[OrdinaryServer]:
    """A server of this module's own, on an empty data directory."""
    running = OrdinaryServer(Path(tempfile.mkdtemp(prefix="contree-user-")))
    with started(running):
        yield running
    places = [*Path("/tmp").iterdir(), *Path("/run").iterdir(), *Path("/dev/shm").iterdir()]
    assert [p for p in places if p.owner() == running.user.pw_name and "contree" in p.name] == []


@pytest.fixture(scope="module")
def project() -> str:
    return "home"


def test_a_run_succeeds_and_its_files_are_listed(api: Api, busybox: str) -> None:
    ended = api.run(busybox, "echo hello >/greeting; mkdir /made", disposable=False)
    assert ended.state["exit_code"] == 0
    assert {"greeting", "made"} <= api.listing(ended.image, "/").keys()


def test_nothing_that_it_keeps_is_open_to_others(server: OrdinaryServer, api: Api) -> None:
    """Made under a umask that would let everybody read."""
    layers = [*(server.data_dir / "layers").glob("*/layer.tar")]
    assert len(layers) >= 2, "the runs before have left some"
    found = {path: path.lstat() for path in server.data_dir.rglob("*")}
    found[server.data_dir] = server.data_dir.stat()
    opened = [
        f"{stat.filemode(status.st_mode)} {path}"
        for path, status in found.items()
        if status.st_mode & 0o077 and not stat.S_ISLNK(status.st_mode)
    ]
    assert opened == []


def test_doctor_says_what_is_here_and_how_many_guests_there_were(
    server: OrdinaryServer, api: Api, busybox: str
) -> None:
    api.run(busybox, "true")
    rows = api.get("/operations", limit=1000)
    runs = [row for row in rows if row["kind"] == "instance"]
    done = server.contreed("doctor")
    lines = done.stdout.splitlines()
    for program in ALL:
        assert f"ok      {program.name}: {program.find()}" in lines
    [database] = [line for line in lines if line.startswith("ok      database: ")]
    counted = f"guests started in the last 24 hours: {len(runs)} from template"
    assert database.endswith(counted), database
    [guest] = [line for line in lines if " guest: " in line]
    assert guest.startswith("ok      guest: from template, Linux "), done.stdout
    is_ours = ["test", "-r", KVM, "-a", "-w", KVM]
    if KVM.exists() and subprocess.run([*server.prefix, *is_ours], check=False).returncode != 0:
        [at] = [number for number, line in enumerate(lines) if line.startswith("warn    kvm: ")]
        assert f"{KVM} is not ours to use" in lines[at]
        remedy = lines[at + 1]
        assert remedy.endswith(f" {server.user.pw_name}, and log in again")
    assert lines[-1] == "this machine can run guests"
    assert all(line.startswith("... ") for line in done.stderr.splitlines()), done.stderr


def test_doctor_beside_it_leaves_it_ready(
    server: OrdinaryServer, api_of: Callable[..., Api], busybox: str, token: str
) -> None:
    assert server.is_ready()
    assert api_of(server, token).run(busybox, "exit 7").state["exit_code"] == 7
