"""Runs that are repeated on a real server, over HTTP and by `contreed replay`."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.acceptance.api import Api
from tests.support.server import CONTREED, RunningServer


@pytest.fixture(scope="module")
def chain(api: Api, busybox: str) -> list[str]:
    """Operations that led from busybox to a checkpoint, and that checkpoint last."""
    commands = [
        "echo stable; mkdir /out; echo same > /out/same",
        "date; date > /out/when; rm /out/same; head -c 16 /dev/urandom | base64 > /out/key",
    ]
    image, operations = busybox, []
    for command in commands:
        ran = api.run(image, command).want_exit()
        operations.append(ran.uuid)
        image = ran.image
    # Times in files are whole seconds: what runs again is to find another one.
    ended = int(time.time())
    while int(time.time()) <= ended:
        time.sleep(0.05)
    return [*operations, image]


def replay(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [CONTREED, "replay", "--data-dir", server.data_dir, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def test_only_times_differ_where_a_command_does_the_same(
    server: RunningServer, chain: list[str]
) -> None:
    done = replay(server, chain[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stdout      equal: 7 bytes" in done.stdout
    assert "/out/same: mtime (clock)" in done.stdout
    assert done.stdout.rstrip().endswith("explained (clock)")


def test_a_chain_is_replayed_and_each_difference_is_named(
    server: RunningServer, busybox: str, chain: list[str]
) -> None:
    done = replay(server, "--from", busybox, "--to", chain[-1], "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["original"] for report in reports] == chain[:2]
    second = reports[1]
    assert (second["verdict"], second["stdout"]["causes"]) == ("explained", ["clock"])
    files = {file["path"]: file for file in second["filesystem"]["differences"]}
    assert files["/out/when"]["causes"] == ["clock"]
    assert set(files["/out/key"]["causes"]) == {"clock", "randomness"}
    assert "/out/same" not in files, "both removed it"


def test_a_command_that_behaves_otherwise_is_found_out(api: Api, chain: list[str]) -> None:
    flaky = api.run(chain[-1], "cat /proc/sys/kernel/random/boot_id | tr -d '0-9-'").want_exit()
    answer = api.http.post(f"/operations/{flaky.uuid}/replay")
    assert answer.status_code == 201, answer.text
    api.wait(answer.json()["uuid"])
    report = api.get(f"/operations/{answer.json()['uuid']}/replay")
    assert (report["verdict"], report["differs"]) == ("different", ["stdout"])
    assert report["stdout"]["first_difference"]["line"] == 1


def test_what_is_not_there_is_said_on_one_line(server: RunningServer, busybox: str) -> None:
    unknown = "00000000-0000-4000-8000-00000000ffff"
    done = replay(server, unknown)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"contreed: operation '{unknown}' was not found\n"
    assert replay(server, "--from", busybox).returncode == 3
