"""`contreed api` and `contreed worker`, each a process of its own, over one PostgreSQL.

Both are killed under a follower and started again, as an operator's supervisor would do.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.acceptance.api import HELD, Api
from tests.acceptance.follower import COUNTING, Follower
from tests.support.postgres import dsn_for, execute
from tests.support.server import CONTREED, RunningServer
from tests.support.split import WAIT_S, Split

DATABASE = "split"


@pytest.fixture
async def split(server: RunningServer) -> Iterator[Split]:
    """Its database is one more on the shared server's PostgreSQL; all else is its own."""
    directory = Path(tempfile.mkdtemp(prefix="contree-split-"))
    owner_dsn = server.dsn()
    await execute(owner_dsn, f"CREATE DATABASE {DATABASE}")
    dsn = dsn_for(owner_dsn, DATABASE)
    place = RunningServer(directory, environment={"CONTREED_DATABASE_URL": dsn})
    started = Split(place, {"CONTREED_DATABASE_URL": dsn})
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


def test_a_second_worker_of_the_same_name_is_refused(split: Split) -> None:
    other = Path(tempfile.mkdtemp(prefix="contree-second-"))
    try:
        done = subprocess.run(
            [CONTREED, "worker", "--data-dir", other / "data", "--accelerator", "tcg"],
            check=False,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            env=split.environment,
        )
    finally:
        shutil.rmtree(other)
    assert done.returncode == 1
    assert "contreed: another worker is called" in done.stderr
    assert "give each a worker_name of its own" in done.stderr
    assert "Traceback" not in done.stderr


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
