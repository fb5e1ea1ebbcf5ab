"""Watching and steering running commands: contree-client against a real server with real guests."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from contree_client import models
from contree_client.exceptions import APIStatusError, ConflictError, GoneError, NotFoundError
from contree_client.http import ContreeClient

from tests.acceptance.api import Api
from tests.acceptance.follower import COUNTING, Follower, want_counted
from tests.support.memory import PeakGrowth
from tests.support.server import (
    ANY_PORT,
    CONTREED,
    RunningServer,
    listening_url,
    supervisor,
    wait_until_ready,
)

WAIT_S = 300
MIB = 1024**2
OPEN = models.ClosableStreamRepr(value="", close=False)


@pytest.fixture
def client(server: RunningServer, token: str) -> Iterator[ContreeClient]:
    with ContreeClient(token, base_url=server.url, timeout=60) as opened:
        yield opened


def spawn(client: Any, image: str, command: str, **fields: Any) -> str:
    fields.setdefault("disposable", True)
    uuid: str = client.spawn_instance(command=command, image=image, shell=True, **fields).uuid
    return uuid


def until(events: Iterator[Any], type_: str, *, text: str = "", spid: int | None = None) -> Any:
    """Return the next event of the type whose text holds `text`."""
    for event in events:
        wanted = event.type == type_ and spid in {None, event.spid}
        if wanted and (not text or text in text_of(event)):
            return event
    raise AssertionError(f"no {type_} came")


def text_of(event: Any) -> str:
    if event.data.encoding == "base64":
        return base64.b64decode(event.data.value).decode()
    return str(event.data.value)


def wait_for_exit(client: ContreeClient, uuid: str, spid: int) -> Any:
    deadline = time.monotonic() + WAIT_S
    while True:
        result = client.operation_subprocess(uuid, spid)
        if (result.state.exit_code, result.state.signal) != (-1, -1):
            return result
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_running_instance_is_worked_in_from_outside(client: ContreeClient, busybox: str) -> None:
    uuid = spawn(
        client,
        busybox,
        "trap 'echo interrupted; exit 7' INT; echo up; while :; do sleep 0.1; done",
        env={"COLOUR": "blue"},
        cwd="/tmp",
    )
    events = client.follow_operation_events(uuid)
    until(events, "spawn", spid=1)
    # Usable at once when its spawn is visible.
    first = client.operation_subprocess_create(
        uuid, "echo $COLOUR $MINE; pwd; echo >&2 no; exit 3", shell=True, env={"MINE": "too"}
    )
    assert first == 2
    spawned = until(events, "spawn", spid=2)
    assert (spawned.data.shell, spawned.data.cwd, spawned.data.env["MINE"]) == (True, "/tmp", "too")
    result = wait_for_exit(client, uuid, first)
    assert (result.state.exit_code, result.state.signal) == (3, -1)
    assert (result.stdout.value, result.stderr.value) == ("blue too\n/tmp\n", "no\n")
    assert result.resources.max_rss > 0

    cat = client.operation_subprocess_create(uuid, "cat", stdin=OPEN)
    running = client.operation_subprocess(uuid, cat)
    assert (running.state.exit_code, running.state.signal) == (-1, -1)
    client.operation_subprocess_stdin(uuid, cat, "one ", close=False)
    client.operation_subprocess_stdin(
        uuid, cat, base64.b64encode("zw\u00f6lf".encode()).decode(), encoding="base64"
    )
    result = wait_for_exit(client, uuid, cat)
    assert base64.b64decode(result.stdout.value).decode() == "one zw\u00f6lf"

    sleeper = client.operation_subprocess_create(uuid, "sleep", args=["600"])
    client.operation_subprocess_kill(uuid, sleeper, signal="TERM")
    assert wait_for_exit(client, uuid, sleeper).state.signal == 15
    with pytest.raises(NotFoundError):
        client.operation_subprocess_kill(uuid, sleeper)
    with pytest.raises(NotFoundError):
        client.operation_subprocess_kill(uuid, 99)
    with pytest.raises(ConflictError):
        client.operation_subprocess_stdin(uuid, 1, "nobody reads")

    left = client.operation_subprocess_create(uuid, "sleep 600 & sleep 600", shell=True)
    client.operation_subprocess_kill(uuid, 1, signal="INT")  # as Ctrl-C in the CLI
    rest = list(events)
    assert "interrupted\n" in [text_of(e) for e in rest if e.type == "stdout"]
    exits = {e.spid: e.data for e in rest if e.type == "exit"}
    assert (exits[1].code, exits[1].signal) == (7, -1)
    assert (exits[left].code, exits[left].signal) == (-1, 9)
    assert rest[-1].data.status == "SUCCESS"

    # All of it for good: results, the whole log, and who did it in the audit log.
    assert client.operation_subprocess(uuid, 1).state.exit_code == 7
    assert client.operation_subprocess(uuid, first).stdout.value == "blue too\n/tmp\n"
    assert client.operation_subprocess(uuid, left).state.signal == 9
    with pytest.raises(NotFoundError):
        client.operation_subprocess(uuid, 99)
    with pytest.raises(ConflictError):
        client.operation_subprocess_create(uuid, "true")
    with pytest.raises(ConflictError):
        client.operation_subprocess_kill(uuid, 1)
    with pytest.raises(GoneError):
        client.operation_subprocess_stdin(uuid, 1, "late")


PASSED_ON_MIB = 200
CAP_MIB = 10
GROWTH_MIB_MAX = 64
"""Of API and worker, for each: the output that is kept, what is on its way, and room for luck."""

BOTH_WAYS = "mkfifo /copy; sha256sum </copy >&2 & tee /copy; wait"


def test_hundreds_of_megabytes_pass_through_in_both_directions_in_bounded_memory(
    server: RunningServer, client: ContreeClient, busybox: str
) -> None:
    """In pieces of 512 KiB, as the CLI sends them; what a process writes is kept up to its cap."""
    fields = {"stdin": OPEN, "timeout": 600, "truncate_output_at": CAP_MIB * MIB}
    uuid = spawn(client, busybox, BOTH_WAYS, **fields)
    until(client.follow_operation_events(uuid), "spawn", spid=1)
    grown = {"API": PeakGrowth(server.pid), "worker": PeakGrowth(server.worker_pid)}
    digest, first, piece = hashlib.sha256(), bytearray(), bytes(range(256)) * 2048
    for number in range(PASSED_ON_MIB * MIB // len(piece)):
        data = number.to_bytes(4, "big") + piece[4:]
        digest.update(data)
        first += data if len(first) < CAP_MIB * MIB else b""
        client.operation_subprocess_stdin(
            uuid, 1, base64.b64encode(data).decode(), encoding="base64", close=False
        )
    client.operation_subprocess_stdin(uuid, 1, "", close=True)
    # A follower from the beginning would be dropped for not reading, if all that took long.
    rest = list(client.follow_operation_events(uuid))
    written = {
        name: b"".join(base64.b64decode(e.data.value) if e.data.encoding == "base64"
                       else e.data.value.encode() for e in rest if e.type == name)
        for name in ("stdin", "stdout", "stderr")
    }  # fmt: skip
    # What came in is whole; what went out is whole up to the cap, and the rest is counted.
    assert written["stderr"].decode().split()[0] == digest.hexdigest()
    assert written["stdout"] == written["stdin"] == bytes(first)
    cuts = {e.data.stream: e.data for e in rest if e.type == "truncated"}
    assert set(cuts) == {"stdin", "stdout"}
    for cut in cuts.values():
        assert cut.bytes_emitted == CAP_MIB * MIB
        assert cut.bytes_emitted + cut.bytes_dropped == PASSED_ON_MIB * MIB
    assert rest[-1].data.status == "SUCCESS"
    sizes = {name: peak.mib for name, peak in grown.items()}
    assert max(sizes.values()) < GROWTH_MIB_MAX, sizes


def test_bad_requests_are_refused_by_name(api: Api, client: ContreeClient, busybox: str) -> None:
    uuid = spawn(client, busybox, "cat", stdin=OPEN)
    until(client.follow_operation_events(uuid), "spawn")
    path = f"/operations/{uuid}/subprocesses"
    for method, tail, options, status, field in (
        ("DELETE", "/1", {"params": {"signal": "NOPE"}}, 400, "signal"),
        ("DELETE", "/1", {"params": {"signal": "0"}}, 400, "signal"),
        ("DELETE", "/1", {"params": {"signal": "65"}}, 400, "signal"),
        ("DELETE", "/0", {}, 400, "spid"),
        ("GET", "/x", {}, 400, "spid"),
        ("POST", "/1/stdin", {"json": {"value": "!", "encoding": "base64"}}, 400, "value"),
        ("POST", "/1/stdin", {"json": {}}, 400, "value"),
        ("POST", "", {"json": {"command": ""}}, 400, "command"),
        ("POST", "", {"json": {"command": "/no/such"}}, 400, "command"),
        ("POST", "", {"json": {"command": "true", "cwd": "x"}}, 400, "cwd"),
    ):
        assert api.refusal(method, path + tail, **options)["field"] == field, (method, tail)
        assert api.http.request(method, path + tail, **options).status_code == status
    assert api.refusal("POST", f"{path}/7/stdin", json={"value": "x"})["status"] == 404
    client.operation_subprocess_stdin(uuid, 1, "still alive\n")
    ended = client.wait_operation(uuid, timeout=WAIT_S)
    assert ended.metadata.result.stdout.value == "still alive\n"


def test_a_cancelled_instance_is_gone_at_once_and_its_log_stays(
    server: RunningServer, client: ContreeClient, busybox: str
) -> None:
    uuid = spawn(client, busybox, "echo before; sleep 600")
    events = client.follow_operation_events(uuid)
    until(events, "stdout", text="before")
    client.cancel_operation(uuid)
    last = list(events)[-1]
    assert (last.type, last.data.status) == ("completion", "CANCELLED")
    assert client.get_operation_status(uuid).status.value == "CANCELLED"
    again = [event.type for event in client.iter_operation_events(uuid)]
    assert (again[0], again[-1]) == ("init", "completion")
    assert "stdout" in again
    with pytest.raises(NotFoundError):
        client.operation_subprocess(uuid, 1)
    with pytest.raises((ConflictError, APIStatusError)):
        client.operation_subprocess_create(uuid, "true")
    want_no_guest(server)


def test_a_run_is_cancelled_while_its_guest_starts_and_while_its_files_are_kept(
    server: RunningServer, client: ContreeClient, busybox: str
) -> None:
    """Waiting and running ones are in test_client, imports in test_import_failures."""
    starting = spawn(client, busybox, "sleep 600")
    while client.get_operation_status(starting).status.value == "PENDING":
        time.sleep(0.005)
    following = client.follow_operation_events(starting)
    client.cancel_operation(starting)
    assert list(following)[-1].data.status == "CANCELLED"

    keeping, rest = cancelled_after_its_exit(client, busybox)
    assert (rest[-1].type, rest[-1].data.status) == ("completion", "CANCELLED")
    assert rest[-1].data.result_image_uuid is None
    assert [event.type for event in rest].count("shutdown") == 1
    for uuid in (starting, keeping):
        status = client.get_operation_status(uuid)
        assert (status.status.value, status.result_image_uuid) == ("CANCELLED", None)
    want_no_guest(server)


def cancelled_after_its_exit(client: ContreeClient, image: str) -> tuple[str, list[Any]]:
    """Cancel a run between its command's end and its own; return it and what followed.

    Keeping the files may be faster than the news of the exit: then there must be more of them.
    """
    for size_mib in (200, 400, 800, 1600):
        write = f"head -c {size_mib}M /dev/zero >/large"
        uuid = spawn(client, image, write, disposable=False)
        events = client.follow_operation_events(uuid)
        until(events, "exit", spid=1)
        with suppress(ConflictError):
            client.cancel_operation(uuid)
        rest = list(events)
        if rest[-1].data.status == "CANCELLED":
            return uuid, rest
    raise AssertionError("files were always kept before the run could be cancelled")


def want_no_guest(server: RunningServer) -> None:
    deadline = time.monotonic() + WAIT_S
    while server.qemus():
        assert time.monotonic() < deadline, "a cancelled guest lives on"
        time.sleep(0.05)


def test_a_follower_that_comes_back_misses_and_doubles_nothing(
    server: RunningServer, client: ContreeClient, token: str, busybox: str
) -> None:
    uuid = spawn(client, busybox, COUNTING, stdin=OPEN)
    with Follower(uuid, token) as follower:
        for _ in range(60):
            follower.read(server.url, events_max=1)
        client.operation_subprocess_stdin(uuid, 1, "")
        follower.read(server.url)
        want_counted(follower)


@contextmanager
def another_api(server: RunningServer) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An API process beside `serve`, on the same database and stores."""
    with tempfile.NamedTemporaryFile() as log, supervisor() as (notices, variables):
        process = subprocess.Popen(
            [CONTREED, "api", "--data-dir", server.data_dir, "--listen", ANY_PORT],
            stderr=log,
            env={**os.environ, "CONTREED_DATABASE_URL": server.dsn(), **variables},
        )
        try:
            wait_until_ready(process, notices, Path(log.name).read_text)
            yield listening_url(Path(log.name).read_text()), process
        finally:
            process.kill()
            process.wait()


def test_an_api_that_is_killed_under_its_followers_is_taken_over_by_another(
    server: RunningServer, client: ContreeClient, token: str, busybox: str
) -> None:
    """The worker is another process all the while: what it hears comes through the database."""
    with ExitStack() as stack:
        first = stack.enter_context(another_api(server))
        second = stack.enter_context(another_api(server))
        uuid = spawn(client, busybox, COUNTING, stdin=OPEN)
        follower = stack.enter_context(Follower(uuid, token))
        for url, stop in ((first[0], first[1].kill), (second[0], second[1].terminate)):
            follower.read(url, events_max=20)
            stopping = threading.Timer(0.3, stop)
            stopping.start()
            with suppress(httpx.TransportError):
                follower.read(url)
            stopping.join()
            assert not follower.ended
        assert second[1].wait(WAIT_S) == 0
        client.operation_subprocess_stdin(uuid, 1, "")
        follower.read(server.url)
        want_counted(follower)


def test_a_worker_that_is_killed_runs_the_command_again_under_its_followers(
    server: RunningServer, client: ContreeClient, busybox: str
) -> None:
    uuid = spawn(client, busybox, "echo up; read held; echo done", stdin=OPEN)
    events = client.follow_operation_events(uuid)
    seen = [until(events, "stdout", text="up")]
    os.kill(server.worker_pid, signal.SIGKILL)
    for event in events:
        seen.append(event)
        if event.type == "spawn":  # again
            client.operation_subprocess_stdin(uuid, 1, "")
    assert [event.id for event in seen] == sorted({event.id for event in seen})
    assert [event.type for event in seen].count("init") == 1  # of the second attempt
    assert (seen[-1].type, seen[-1].data.status) == ("completion", "SUCCESS")
    # Afterwards there is only the attempt that counts.
    log = list(client.iter_operation_events(uuid))
    assert "".join(text_of(e) for e in log if e.type == "stdout") == "up\ndone\n"
