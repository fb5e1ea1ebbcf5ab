"""The clients that are to come, in .venv-next: what they do today, they must do when they are out.

Its contree-sdk wants another contree-client than contree-cli does, which therefore is not there;
contree-mcp works with either.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.agent import over_stdio
from tests.acceptance.test_mcp import TOOLS
from tests.support.server import RunningServer

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / ".venv-next" / "bin"
WAIT_S = 600.0


def locked(name: str) -> str:
    """The version of a package in requirements-next.lock."""
    (line,) = [
        line
        for line in (ROOT / "requirements-next.lock").read_text().splitlines()
        if line.startswith(f"{name}==")
    ]
    return line.removeprefix(f"{name}==").split()[0]


@pytest.fixture(scope="module")
def seen(
    server: RunningServer,
    token: str,
    busybox_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What each part of next_sdk.py saw; all in one process, as in a user's program."""
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [
            PROGRAMS / "python",
            ROOT / "tests/acceptance/next_sdk.py",
            server.url,
            token,
            busybox_url,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        cwd=home,
        env={"PATH": os.defpath, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_the_versions_are_those_that_are_locked(seen: dict[str, Any]) -> None:
    assert seen["versions"] == {
        name: locked(name) for name in ("contree-sdk", "contree-client", "contree-mcp")
    }


def test_images_are_imported_found_listed_tagged_and_untagged(seen: dict[str, Any]) -> None:
    assert seen["images"] == {
        "same": [True, True],
        "listed": True,
        "first": 1,
        "gone": "NotFoundError(status=404, error=\"tag 'next/x:1' was not found\")",
        "may spawn": True,
    }


def test_a_run_has_input_output_and_an_end(seen: dict[str, Any]) -> None:
    assert seen["a_run"] == {
        "stdout": "grüße\nblue\n/new/place\nbox\n",
        "stderr": "err\n",
        "exit_code": 3,
        "uuid": None,
        "took": True,
        "cost": 0.0,
        "bytes": True,
    }


def test_output_is_handed_on_as_it_comes(seen: dict[str, Any]) -> None:
    assert seen["output_as_it_comes"] == [["stdout", "one\n"], ["stderr", "two\n"]]


def test_branches_do_not_see_each_other(seen: dict[str, Any]) -> None:
    assert seen["branches"] == {
        "left": "base\nleft\n",
        "left tag": True,
        "right": [],
        "back": "base\n",
        "unchanged": True,
    }


def test_a_session_moves_on_with_each_run(seen: dict[str, Any]) -> None:
    assert seen["a_session"] == {"exit_code": 7, "log": "1\n2\n", "moved": 3}


def test_popen_looks_like_subprocess(seen: dict[str, Any]) -> None:
    assert seen["popen"] == {"said": ["fed", ""], "code": 4, "check": [5, "b\n"]}


def test_files_go_in_and_out(seen: dict[str, Any]) -> None:
    assert seen["files"] == {
        "stdout": "from a file\n"
        "/opt/again 644 0:0 27\n/opt/owned 640 5:6 2\n/opt/script 755 0:0 27\n",
        "applied": "welcome\n",
        "downloaded": [0, 255],
        "entry": [["owned", 2, 0o100640]],
        "grep": [["/opt/script", 2]],
        "absent": "NotFoundError(status=404, error=\"path '/no/such' was not found\")",
    }


def test_every_other_end_is_told(seen: dict[str, Any], busybox_url: str) -> None:
    ends = dict(seen["ends"])
    registry = busybox_url.split("/")[2]
    absent = (
        "has failed: command 'no-such-program' could not be started: "
        "no-such-program: No such file or directory"
    )
    for name, end in (
        ("absent", absent),
        ("late", "has timed out"),
        ("import", f"has failed: {registry}: the registry does not have this image"),
    ):
        operation, _, said = ends.pop(name).removeprefix("Operation ").partition(" ")
        assert (len(operation), said) == (36, end)
    assert ends == {
        "refused": "ApiStatusCodeError(status=400, error=\"cwd: 'relative' is not absolute, "
        "begin it with '/'\")",
        "cut": [1000, 1000, 89000],
    }


def test_a_wrong_token_or_project_is_refused(seen: dict[str, Any]) -> None:
    assert seen["sign_in"] == {
        "iam": 1,
        "another project": "ApiStatusCodeError(status=401, "
        "error='Project: the token does not belong to this project')",
        "another token": "ApiStatusCodeError(status=401, "
        "error='the token is not known here, or was revoked')",
    }


def test_a_run_is_followed_to_its_end_on_every_transport(seen: dict[str, Any]) -> None:
    synchronous = ("http", "httpx", "requests", "urllib3")
    assert seen["transports"] == {
        **{f"{name}, synchronous": f"{name}\n" for name in synchronous},
        **{f"{name}, asynchronous": f"{name}\n" for name in ("aiohttp", "httpx", "http")},
    }


def test_the_asynchronous_client_goes_the_same_way(seen: dict[str, Any]) -> None:
    assert seen["asynchronous"] == {
        "session": ["async\n"],
        "beside": ["0\n0\n", "1\n1\n"],
        "applied": "welcome\n",
        "listed": True,
    }


def test_a_run_is_spoken_to_while_it_lasts(seen: dict[str, Any]) -> None:
    assert seen["live"] == {
        "said": {"1": "got one\ngot two\n", "2": "Linux\n"},
        "ids": True,
        "resumed": True,
        "exit_code": 6,
    }


async def test_an_agent_has_its_tools(
    server: RunningServer, token: str, busybox: str, tmp_path: Path
) -> None:
    mcp = PROGRAMS / "contree-mcp"
    async with over_stdio(server.url, token, tmp_path, mcp=mcp) as agent:
        assert await agent.tools() == TOOLS
        (found,) = (await agent.call("list_images", tag_prefix="busybox"))["images"]
        assert (found["uuid"], found["tag"]) == (busybox, "busybox:latest")
        made = await agent.run("cat; echo kept >/kept; exit 3", stdin="fed\n", disposable=False)
        assert (made["status"], made["exit_code"], made["stdout"]) == ("SUCCESS", 3, "fed\n")
        image = made["result_image_uuid"]
        read = await agent.call("read_file", image=image, path="/kept")
        assert (read["content"], read["encoding"]) == ("kept\n", "utf-8")
        assert await agent.read(f"image/{image}/read/kept") == "kept\n"
        assert "404" in await agent.refusal("run", command="true", image="tag:no/such")
