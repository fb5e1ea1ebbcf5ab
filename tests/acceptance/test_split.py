"""`contreed api` and `contreed worker`, each a process of its own, over one PostgreSQL.

Both are killed under a follower and started again, as an operator's supervisor would do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.acceptance.api import HELD, Api
from tests.acceptance.follower import COUNTING, Follower
from tests.support.postgres import dsn_for, execute
from tests.support.server import (
    ANY_PORT,
    CONTREED,
    RunningServer,
    listening_url,
    supervisor,
    wait_until_ready,
)

WAIT_S = 300
DATABASE = "split"


class Split:
    """One API and one worker; `place` knows their data directory and what belongs to it."""

    def __init__(self, place: RunningServer, dsn: str) -> None:
        self.place = place
        self.url = ""
        self._environment = {**os.environ, "CONTREED_DATABASE_URL": dsn}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, part: str) -> None:
        """Start `api` or `worker`, as systemd does: it says itself when it is ready."""
        options = ["--listen", ANY_PORT] if part == "api" else []
        with supervisor() as (notices, variables), self.place.log.open("ab") as log:
            self._running[part] = process = subprocess.Popen(
                [CONTREED, part, "--data-dir", self.place.data_dir, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environment, **variables},
            )
            wait_until_ready(process, notices, lambda: self.place.log_text)
        if part == "api":
            self.url = listening_url(self.place.log_text)
            assert httpx.get(f"{self.url}/readyz").status_code == 200

    def end(self, part: str, number: signal.Signals) -> None:
        """Send the signal and wait; SIGTERM must end it in good order."""
        process = self._running.pop(part)
        process.send_signal(number)
        status = process.wait(WAIT_S)
        assert status == (0 if number == signal.SIGTERM else -number), self.place.log_text

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


@pytest.fixture
async def split(server: RunningServer) -> Iterator[Split]:
    """Its database is one more on the shared server's PostgreSQL; all else is its own."""
    directory = Path(tempfile.mkdtemp(prefix="contree-split-"))
    owner_dsn = server.dsn()
    await execute(owner_dsn, f"CREATE DATABASE {DATABASE}")
    dsn = dsn_for(owner_dsn, DATABASE)
    place = RunningServer(directory, environment={"CONTREED_DATABASE_URL": dsn})
    started = Split(place, dsn)
    try:
        place.learn_from(server)
        started.start("api")
        started.start("worker")
        yield started
        for part in ("worker", "api"):
            started.end(part, signal.SIGTERM)
        place.stop()  # nothing runs, nothing is left
        assert not place.runtime_dir.exists()
    finally:
        started.stop()
        place.remove()
        await execute(owner_dsn, f"DROP DATABASE {DATABASE} WITH (FORCE)")


def test_a_follower_outlives_api_and_worker_and_sees_each_attempt_whole(
    split: Split, busybox_url: str
) -> None:
    token = split.place.token("split")
    with closing(Api(split.url, token)) as api:
        image = api.import_image(busybox_url)
        uuid = api.spawn(image, COUNTING, disposable=True, timeout=600, **HELD)
    with ExitStack() as stack:
        with Follower(uuid, token) as follower:
            follower.read(split.url, events_max=20)
            split.end("worker", signal.SIGKILL)
            split.end("api", signal.SIGTERM)
            split.start("api")
            split.start("worker")
            follower.read(split.url, until="init")
            follower.read(split.url, events_max=20)
            split.end("api", signal.SIGKILL)
            split.start("api")
            follower.read(split.url, events_max=20)
            api = stack.enter_context(closing(Api(split.url, token)))
            answer = api.http.post(f"/operations/{uuid}/subprocesses/1/stdin", json={"value": ""})
            assert answer.status_code == 204, answer.text
            follower.read(split.url)
        want_two_attempts(follower)
        assert api.events(uuid)[0]["type"] == "init"
        assert [e["id"] for e in api.events(uuid)] == [e["id"] for e in last_attempt(follower)]
        assert not split.place.qemus()


def last_attempt(follower: Follower) -> list[dict[str, object]]:
    starts = [at for at, event in enumerate(follower.seen) if event["type"] == "init"]
    assert len(starts) == 2
    return follower.seen[starts[1] :]


def want_two_attempts(follower: Follower) -> None:
    """Numbers rise over both and are never used again; nothing of either is missing or doubled."""
    assert follower.ended
    assert follower.seen[-1]["data"]["status"] == "SUCCESS"
    second = last_attempt(follower)
    first = follower.seen[: len(follower.seen) - len(second)]
    for attempt in (first, second):
        numbers = [event["id"] for event in attempt]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        text = "".join(e["data"]["value"] for e in attempt if e["type"] == "stdout")
        # An attempt that was killed may end in the middle of a line.
        assert "".join(f"{n}\n" for n in range(text.count("\n") + 1)).startswith(text)
    assert first[0]["id"] == 0
    assert second[0]["id"] > first[-1]["id"]
