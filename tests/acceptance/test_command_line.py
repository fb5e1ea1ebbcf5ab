"""`contreed` as an operator types it, beside a running server and without one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from contree import bootstrap
from contree.config import Settings
from tests.acceptance.api import HELD, Api
from tests.acceptance.log_reader import history, query
from tests.support.server import CONTREED, RunningServer

COMMANDS: dict[str, tuple[str, ...]] = {
    "": ("serve", "api", "worker", "token", "dsn", "projections", "replay", "doctor"),
    "serve": ("--listen", "--data-dir", "--accelerator"),
    "token": ("create", "list", "revoke"),
    "token create": ("--project", "--permissions", "spawn_disposable"),
    "token revoke": ("TOKEN_ID",),
    "operation": ("list", "show", "cancel"),
    "projections rebuild": ("--check",),
    "dsn": ("--owner",),
    "doctor": ("--libvirt-uri",),
}


def contreed(
    *arguments: str | Path, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CONTREED, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        input=stdin,
        env={**os.environ, **variables},
    )


@pytest.fixture
def alone() -> Iterator[RunningServer]:
    """A data directory on which no server runs."""
    directory = Path(tempfile.mkdtemp(prefix="contree-test-"))
    idle = RunningServer(directory)
    yield idle
    try:
        idle.want_no_processes()
        assert not idle.runtime_dir.exists()
    finally:
        idle.remove()


def test_the_version_is_said() -> None:
    done = contreed("--version")
    assert (done.returncode, done.stdout) == (0, f"contreed {version('contree')}\n")


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "data"
    done = contreed("serve", "--data-dir", place, "--listen", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"contreed: '{place}': Not a directory\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_what_there_is(command: str) -> None:
    done = contreed(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in COMMANDS[command]:
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "make, list and revoke API tokens"),
        (("nonsense",), 2, "nonsense"),
        (("serve", "--no-such-option"), 2, "usage: contreed serve [-h]"),
        (("serve", "--no-such-option"), 2, "unrecognized arguments: --no-such-option"),
        (("token", "list", "x"), 2, "usage: contreed token list [-h]"),
        (("token", "create"), 2, "--project"),
        (("serve", "--listen", "here"), 1, "listen: 'here' is not HOST:PORT"),
        (("serve", "--listen", "127.0.0.1:99999"), 1, "HOST:PORT"),
        (("serve", "--instances-here", "many"), 1, "instances_here"),
        (
            ("doctor", "--accelerator", "warp"),
            1,
            "accelerator: 'warp' is not allowed: use one of auto, kvm, tcg",
        ),
        (("api",), 1, "set database_url"),
        (("worker",), 1, "set database_url"),
        (("dsn", "--config", "/no/such/file.toml"), 1, "/no/such/file.toml"),
        (("token", "create", "--project", "p", "--permissions", "fly"), 1, "fly"),
        (("operation", "cancel", "7"), 1, "OPERATION: '7' is not a UUID, nor the first 4 or more"),
    ],
)
def test_bad_usage_says_what_is_wrong(
    alone: RunningServer, arguments: tuple[str, ...], status: int, said: str
) -> None:
    rest = ("--data-dir", alone.data_dir) if arguments and arguments != ("nonsense",) else ()
    done = contreed(*arguments, *rest)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_that_cannot_start_ends_serve_which_says_why(alone: RunningServer) -> None:
    rest = ("--data-dir", alone.data_dir, "--listen", "127.0.0.1:0")
    done = contreed("serve", *rest, CONTREED_GUEST_AGENT="/no/such/agent")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/no/such/agent is missing" in done.stderr
    assert "the worker ended with status 1 before it was ready" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_may_be_told_its_database_on_standard_input(alone: RunningServer) -> None:
    done = contreed("worker", "--data-dir", alone.data_dir, "--database-url", "-", stdin="")
    assert done.returncode == 1
    assert "database_url: standard input ended before a line with it" in done.stderr


def test_tokens_beside_a_running_server(server: RunningServer, api_of: Callable[..., Api]) -> None:
    made = server.contreed("token", "create", "--project", "tokens", "--permissions", "list,cancel")
    secret = made.stdout.strip()
    assert made.stdout == f"{secret}\n"
    client = api_of(server, secret)
    whoami = client.get("/whoami")
    assert {name for name, given in whoami["permissions"].items() if given} == {"list", "cancel"}
    listed = server.contreed("token", "list").stdout
    assert secret not in listed
    (line,) = [line for line in listed.splitlines() if whoami["token_uuid"] in line]
    assert "tokens" in line
    in_json = json.loads(server.contreed("token", "list", "--json").stdout)
    (one,) = [one for one in in_json if one["token"] == whoami["token_uuid"]]
    assert (
        one.items()
        >= {
            "project": "tokens",
            "state": "active",
            "expires": None,
            "permissions": ["cancel", "list"],
        }.items()
    )
    server.contreed("token", "revoke", whoami["token_uuid"])
    assert client.http.get("/whoami").status_code == 401
    unknown = server.contreed(
        "token", "revoke", "00000000-0000-0000-0000-000000000000", check=False
    )
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "00000000-0000-0000-0000-000000000000" in unknown.stderr


async def test_the_operator_sees_what_runs_and_stops_it(
    server: RunningServer, api: Api, busybox: str, project: str
) -> None:
    """Whoever asked for it may be gone, or be why it has to stop."""
    uuid = api.spawn(busybox, "read held", **HELD)
    api.wait_for(uuid, {"EXECUTING"})
    for options in ((), ("--project", project)):
        header, *listed = server.contreed("operation", "list", *options).stdout.splitlines()
        assert header.split() == ["OPERATION", "PROJECT", "KIND", "STATUS", "REQUESTED", "WORKER"]
        (line,) = [re.split(" {2,}", line) for line in listed if line.startswith(uuid)]
        assert line[1:4] == [project, "instance", "EXECUTING"]
    listed = json.loads(server.contreed("operation", "list", "--json").stdout)
    (one,) = [one for one in listed if one["operation"] == uuid]
    assert (one["project"], one["status"]) == (project, "EXECUTING")
    is_ready = json.loads(
        server.contreed("status", "--json", "--listen", server.url.removeprefix("http://")).stdout
    )
    assert (is_ready["ready"], is_ready["problem"]) == (True, None)
    assert is_ready["running"] >= 1
    assert is_ready["workers_with_work"] == [one["worker"]]
    shown = server.contreed("operation", "show", uuid).stdout.splitlines()
    assert f"project    {project}" in shown
    assert "status     EXECUTING" in shown
    assert f"image      {busybox}" in shown

    assert server.contreed("operation", "cancel", uuid[:13]).stdout == ""

    assert api.wait(uuid)["status"] == "CANCELLED"
    told = await history(server, uuid)
    (wish,) = [payload for what, payload in told if what == "cancellation_requested"]
    assert wish["actor"] == "operator"
    ended = json.loads(server.contreed("operation", "show", uuid[:18], "--json").stdout)
    assert (ended["operation"], ended["status"], ended["image"]) == (uuid, "CANCELLED", busybox)
    assert uuid not in server.contreed("operation", "list").stdout
    again = server.contreed("operation", "cancel", uuid, check=False)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"operation {uuid} is CANCELLED and cannot be cancelled" in again.stderr
    for action in ("show", "cancel"):
        unknown = server.contreed("operation", action, busybox, check=False)
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert f"operation '{busybox}' was not found" in unknown.stderr
    nobody = server.contreed("operation", "list", "--project", "nobody", check=False)
    assert "project 'nobody' was not found" in nobody.stderr


async def test_everything_but_dsn_works_without_a_server(alone: RunningServer) -> None:
    async with bootstrap.database(Settings(data_dir=alone.data_dir)):
        pass  # as a `serve` that has ended left it
    secret = alone.token("early")
    assert len(secret) > 40
    assert "early" in alone.contreed("token", "list").stdout
    assert "are equal" in alone.contreed("projections", "rebuild", "--check").stdout
    done = alone.contreed("dsn", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "contreed serve" in done.stderr


async def test_dsn_leads_to_the_log_which_cannot_be_changed(
    server: RunningServer, busybox: str
) -> None:
    assert await query(server, "SELECT count(*) FROM public.stored_events")
    with pytest.raises(Exception, match=r"append-only"):
        await query(server, "DELETE FROM public.stored_events")


async def test_check_finds_a_read_model_that_was_tampered_with_and_rebuild_mends_it(
    server: RunningServer, api: Api, busybox: str
) -> None:
    api.run(busybox, "exit 3")
    assert server.contreed("projections", "rebuild", "--check").returncode == 0
    await query(
        server,
        "UPDATE read.tags SET name = 'busybox:forged' WHERE image_id = $1 RETURNING name",
        busybox,
    )
    checked = server.contreed("projections", "rebuild", "--check", check=False)
    assert checked.returncode == 1
    assert "tags" in checked.stdout
    assert "busybox:forged" in checked.stdout
    assert "differences" in checked.stdout
    # Nothing was changed by looking.
    assert api.get("/images", tagged=1)["images"][0]["tag"] == "busybox:forged"
    assert "rebuilt" in server.contreed("projections", "rebuild").stdout
    assert api.get("/images", tagged=1)["images"][0]["tag"] == "busybox:latest"
    assert server.contreed("projections", "rebuild", "--check").returncode == 0
    assert api.run(busybox, "exit 4").state["exit_code"] == 4


async def test_doctor_starts_a_guest_beside_a_running_server_and_counts_its_guests(
    server: RunningServer, api: Api, busybox: str
) -> None:
    api.run(busybox, "true")
    done = server.contreed("doctor")
    [counted] = re.findall(r"^ok      database: .*24 hours: (.*)$", done.stdout, re.MULTILINE)
    started = sum(int(number) for number in re.findall(r"(\d+) (?:from|booted)", counted))
    rows = await query(
        server,
        "SELECT count(*) AS started FROM public.stored_events WHERE topic = $1 "
        "AND convert_from(state, 'UTF8') LIKE '%\"origin\"%'",
        "contree.operation.started",
    )
    assert started == rows[0]["started"] > 0
    assert "MISSING" not in done.stdout
    assert "\nok      guest: from template, Linux " in done.stdout
    assert done.stdout.endswith("\nthis machine can run guests\n")


def test_doctor_mends_a_wrong_verdict_on_kvm(server: RunningServer) -> None:
    record = server.data_dir / "cache" / "accelerator.json"
    verdict = json.loads(record.read_text())
    try:
        record.write_text(json.dumps({**verdict, "kvm_works": not verdict["kvm_works"]}))
        server.contreed("doctor")
        mended = json.loads(record.read_text())
        assert (mended["host"], mended["kvm_works"]) == (verdict["host"], verdict["kvm_works"])
    finally:
        record.write_text(json.dumps(verdict))


def test_doctor_says_what_is_missing_and_how_to_get_it(
    alone: RunningServer, tmp_path: Path
) -> None:
    done = contreed("doctor", "--data-dir", alone.data_dir, PATH=str(tmp_path))
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    at = lines.index("MISSING sqfstar: not found; it makes the layer of a waiting guest")
    assert lines[at + 1] == "        apt-get install squashfs-tools"
    assert "warn    guest: not tried, for want of what is missing above" in lines
    assert lines[-1] == "see what is missing above"
    assert not alone.data_dir.exists()


def test_doctor_names_a_guest_agent_that_is_missing(alone: RunningServer) -> None:
    done = contreed("doctor", "--data-dir", alone.data_dir, CONTREED_GUEST_AGENT="/no/such/agent")
    assert done.returncode == 1
    assert done.stdout.endswith(
        "MISSING guest: /no/such/agent is missing: run `make -C guest`\nsee what is missing above\n"
    )


def test_the_help_of_doctor_tells_its_exit_statuses() -> None:
    told = " ".join(contreed("doctor", "--help").stdout.split())
    assert "Exit status: 0 guests can run (there may be warnings), 1 something is missing" in told


def test_the_log_is_checked_beside_a_running_server(server: RunningServer) -> None:
    assert server.contreed("audit", "verify").stdout.endswith("all right\n")
    verdict = json.loads(server.contreed("audit", "verify", "--json").stdout)
    assert (verdict["result"], verdict["findings"]) == ("right", [])


def test_what_could_not_be_checked_is_not_called_wrong(alone: RunningServer) -> None:
    away = ("--data-dir", alone.data_dir, "--database-url", "postgresql://127.0.0.1:1/contree")
    for command in (("audit", "verify"), ("projections", "rebuild", "--check")):
        assert contreed(*command, *away).returncode == 3


def test_a_server_that_does_not_answer_is_not_ready(server: RunningServer) -> None:
    done = server.contreed("status", "--json", "--listen", "127.0.0.1:1", check=False)
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["ready"] is False
    assert said["problem"].startswith("no answer: ")
    assert said["database"].startswith("PostgreSQL ")


def test_logs_may_be_json(alone: RunningServer) -> None:
    rest = ("--data-dir", alone.data_dir, "--listen", "127.0.0.1:0", "--log-format", "json")
    done = contreed("serve", *rest, CONTREED_GUEST_AGENT="/no/such/agent")
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert any(line["message"].startswith("listening on http://") for line in lines)


def test_the_newest_of_the_log_are_shown_last(server: RunningServer, busybox: str) -> None:
    last = server.contreed("audit", "log", "-n", "2", "--json")
    first, second = (json.loads(line) for line in last.stdout.splitlines())
    assert int(first["id"]) < int(second["id"])
    assert "2 events, and there may be more: -n 0 shows all" in last.stderr
    asked = ("--project", "command-line", "--type", "contree.operation.import_requested")
    [line] = server.contreed("audit", "log", *asked).stdout.splitlines()
    _, at, who, what, _, _ = re.split(" {2,}", line.strip(), maxsplit=5)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", at)
    assert re.fullmatch("command-line/[0-9a-f]{8}", who)
    assert what == "operation.import_requested"
    assert line in server.contreed("audit", "log", "--actor", who).stdout.splitlines()
    assert busybox in server.contreed("audit", "log", "--image", busybox[:13]).stdout
