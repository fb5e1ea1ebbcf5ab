"""contree-cli's sessions and operations: history, branches, detached runs, looking and ending."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.acceptance.terminal import Terminal

WAIT_S = 300


def executing(terminal: Terminal, uuid: str) -> dict[str, Any]:
    """Return the row of `ps` that shows the operation, once there is one."""
    deadline = time.monotonic() + WAIT_S
    while True:
        for row in terminal.rows("ps"):
            if row["uuid"] == uuid:
                return row
        assert time.monotonic() < deadline


def test_a_session_branches_and_goes_back(terminal: Terminal, busybox: str) -> None:
    said = terminal.type("use", "tag:busybox:latest", session="history")
    assert said == "export CONTREE_SESSION=history\n"
    at = {"session": "history"}

    def run(command: str) -> None:
        terminal.type("run", "-s", "--", command, **at)

    def log() -> str:
        return terminal.type("cat", "/log", **at)

    run("echo 1 >>/log")
    run("echo 2 >>/log")
    terminal.type("session", "branch", "aside", **at)
    terminal.type("session", "checkout", "aside", **at)
    run("echo aside >>/log")
    terminal.type("session", "checkout", "main", **at)
    assert log() == "1\n2\n"
    terminal.type("session", "rollback", **at)
    assert log() == "1\n"
    terminal.type("session", "rollback", "+1", **at)
    assert log() == "1\n2\n"
    history = terminal.rows("session", "show", "-a", **at)
    assert [row["kind"] for row in history] == ["use", "run", "run", "run"]
    assert [row["branches"] for row in history] == ["", "", "main", "aside"]
    assert history[0]["image"] == busybox
    assert len({row["image"] for row in history}) == 4
    terminal.type("session", "rollback", str(history[1]["id"]), **at)
    run("echo other >>/log")
    assert log() == "1\nother\n"
    branches = {row["branch"]: row["active"] for row in terminal.rows("session", "branch", **at)}
    assert branches == {"aside": False, "main": True}
    terminal.type("session", "branch", "-U", "aside", **at)

    terminal.type("session", "use", "history", session="other")
    assert terminal.type("cat", "/log", session="other") == "1\nother\n"
    terminal.type("tag", "cli/history:1", **at)
    terminal.type("use", "tag:cli/history:1", session="third")
    assert terminal.type("cat", "/log", session="third") == "1\nother\n"
    assert {"history", "other", "third"} <= {
        row["session_key"] for row in terminal.rows("session", "ls")
    }
    terminal.type("session", "delete", "third", "-f")
    terminal.type("cat", "/log", session="third", status=1)


def test_detached_runs_are_watched_collected_and_killed(terminal: Terminal) -> None:
    at = {"session": "detached"}
    terminal.type("use", "tag:busybox:latest", **at)
    (long,) = terminal.rows("run", "-d", "-D", "-s", "--", "echo up; sleep 600", **at)
    (fed,) = terminal.rows("run", "-d", "--", "tee", "/fed", stdin="all of it", **at)
    (failing,) = terminal.rows("run", "-d", "-D", "-s", "--", "exit 4", **at)
    assert executing(terminal, long["uuid"])["status"] == "EXECUTING"

    (row,) = terminal.rows("op", "wait", fed["uuid"], **at)
    assert (row["status"], row["exit_code"]) == ("SUCCESS", 0)
    (row,) = terminal.rows("op", "wait", failing["uuid"], status=4, **at)
    assert row["exit_code"] == 4
    terminal.type("op", "wait", "--timeout", "1", long["uuid"], status=1, **at)
    terminal.type("kill", long["uuid"])
    (row,) = terminal.rows("op", "wait", long["uuid"], status=1, **at)
    assert row["status"] == "CANCELLED"
    terminal.type("kill", long["uuid"], status=1)  # it has ended

    ended = {row["uuid"]: row for row in terminal.rows("session", "wait", status=4, **at)}
    assert set(ended) == {long["uuid"], fed["uuid"], failing["uuid"]}
    assert terminal.type("cat", "/fed", **at) == "all of it"
    (shown,) = terminal.rows("show", "HEAD", **at)
    assert (shown["uuid"], shown["result"]["stdout"]) == (fed["uuid"], "all of it")
    raw = json.loads(terminal.type("show", "--raw", failing["uuid"], **at))
    assert raw["metadata"]["result"]["state"]["exit_code"] == 4
    assert len(terminal.rows("op", "show", fed["uuid"], failing["uuid"], **at)) == 2

    events = terminal.rows("op", "events", long["uuid"])
    assert [event["id"] for event in events] == sorted({event["id"] for event in events})
    assert [event["type"] for event in events][:2] == ["init", "spawn"]
    assert events[-1]["type"] == "completion"
    assert [event["data"]["value"] for event in events if event["type"] == "stdout"] == ["up\n"]
    listed = terminal.type("ps", "-a", "-q", "--kind", "instance").split()
    assert listed[:3] == [failing["uuid"], fed["uuid"], long["uuid"]]
    cancelled = terminal.rows("op", "ls", "--status", "CANCELLED")
    assert [row["uuid"] for row in cancelled] == [long["uuid"]]

    (last,) = terminal.rows("run", "-d", "-D", "--", "sleep", "600", **at)
    terminal.type("kill", "-a")
    terminal.type("op", "wait", "--all")
    assert terminal.rows("show", last["uuid"])[0]["status"] == "CANCELLED"
