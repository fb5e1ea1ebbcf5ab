"""A server whose data directory has no room left: a small tmpfs, most of it taken by a ballast."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.images.registry import RunningRegistry
from tests.acceptance.api import Api, Json, Ran
from tests.acceptance.log_reader import history, steps
from tests.support.registry import publish, tar_of
from tests.support.server import RunningServer, running_server

MIB = 1024**2
DISK_MIB = 512
LEFT_MIB = 48
TOO_LARGE_MIB = 80
RESERVE_MIB = 16
BALLAST = "ballast"


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A filesystem of DISK_MIB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small filesystem")
    place = Path(tempfile.mkdtemp(prefix="contree-small-"))
    options = f"size={DISK_MIB}m,mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "contree-test", place]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        place.rmdir()
        pytest.skip(f"this machine lets nobody mount: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


@pytest.fixture(scope="module")
def server(server: RunningServer, disk: Path) -> Iterator[RunningServer]:
    """A server for this module alone, on the small disk."""
    environment = {"CONTREED_DISK_RESERVE_MIB": str(RESERVE_MIB)}
    with running_server(data_dir=disk / "data", environment=environment, after=server) as running:
        yield running


@pytest.fixture(scope="module")
def nearly_full(disk: Path, busybox: str, api: Api) -> Iterator[None]:
    """Leave LEFT_MIB of the disk until the ballast is thrown off."""
    api.run(busybox, "true")  # what a first run makes once is there
    ballast = disk / BALLAST
    free_bytes = shutil.disk_usage(disk).free
    with ballast.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, free_bytes - LEFT_MIB * MIB)
    yield
    ballast.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def overflowing(nearly_full: None, api: Api, busybox: str) -> Json:
    """How a run ended whose guest wrote more than the host's disk has left."""
    write = f"dd if=/dev/urandom of=/big bs=1M count={TOO_LARGE_MIB} 2>/dev/null; sync; echo $?"
    return api.wait(api.spawn(busybox, write, timeout=600))


def free_mib(disk: Path) -> float:
    return shutil.disk_usage(disk).free / MIB


def want_room(disk: Path, more_than_mib: float = LEFT_MIB / 2) -> None:
    """A guest is cleared away off the request path: its disk may take a moment to be free."""
    deadline = time.monotonic() + 300
    while free_mib(disk) <= more_than_mib:
        assert time.monotonic() < deadline, f"{free_mib(disk)} MiB"
        time.sleep(0.05)


@pytest.mark.usefixtures("nearly_full")
def test_what_does_not_fit_is_refused_or_fails_and_leaves_nothing(
    server: RunningServer, api: Api, registry: RunningRegistry, disk: Path, busybox: str
) -> None:
    before_mib = free_mib(disk)
    refused = api.refusal("POST", "/files", content=os.urandom(TOO_LARGE_MIB * MIB))
    assert (refused["status"], refused["code"]) == (409, "storage_full")
    assert "no room" in refused["error"]

    layer = tar_of([("big", os.urandom(TOO_LARGE_MIB * MIB))])
    imported = api.wait(api.request_import(publish(registry, "too/big", [layer]).url))
    assert (imported["status"], imported["result"]) == ("FAILED", None)
    assert "gave up after 3 attempts: " in imported["error"], "it fills the disk each time"
    assert "no room" in imported["error"]
    # What is left may have gone to the database; nothing of the failed ones is kept.
    want_room(disk, before_mib - 20)
    assert server.is_ready()
    assert api.run(busybox, "echo still here", disposable=True).stdout == b"still here\n"


def test_a_command_that_writes_more_than_the_disk_holds_fails_alone(
    server: RunningServer, api: Api, disk: Path, busybox: str, overflowing: Json
) -> None:
    assert (overflowing["status"], overflowing["result"]) == ("FAILED", None)
    assert overflowing["error"]
    want_room(disk)
    assert server.is_ready()
    assert api.run(busybox, "echo still here", disposable=True).stdout == b"still here\n"


def test_a_guest_stopped_for_want_of_room_says_so(overflowing: Json) -> None:
    assert "room" in overflowing["error"]


async def test_while_the_disk_is_full_runs_wait_and_spend_no_attempt(
    server: RunningServer, api: Api, disk: Path, busybox: str
) -> None:
    more = disk / "more-ballast"
    want_room(disk, RESERVE_MIB)
    with more.open("wb") as out:
        left_bytes = (RESERVE_MIB // 2) * MIB
        os.posix_fallocate(out.fileno(), 0, shutil.disk_usage(disk).free - left_bytes)
    waiting = api.spawn(busybox, "echo waited", disposable=True)
    deadline = time.monotonic() + 300
    while "claims nothing, disk: " not in server.log_text:
        assert time.monotonic() < deadline, server.log_text
        await asyncio.sleep(0.05)
    assert api.operation(waiting)["status"] == "PENDING"
    more.unlink()
    ran = Ran(operation=api.wait(waiting)).want_exit()
    assert ran.stdout == b"waited\n"
    assert steps(await history(server, waiting)).count("assigned") == 1


def test_with_room_again_everything_goes_on(
    server: RunningServer, api: Api, disk: Path, busybox: str
) -> None:
    (disk / BALLAST).unlink(missing_ok=True)
    ran = api.run(busybox, "dd if=/dev/urandom of=/big bs=1M count=20 2>/dev/null").want_exit()
    assert len(api.download(ran.image, "/big")) == 20 * MIB
    assert "are equal" in server.contreed("projections", "rebuild", "--check").stdout
