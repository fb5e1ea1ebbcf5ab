"""The published contree-cli as a user types it, each command a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.api import Api
from tests.support.server import RunningServer

CONTREE = Path(sys.executable).parent / "contree"


class Terminal:
    """A user's home directory, and commands typed in it."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def type(self, *arguments: str, status: int = 0, stdin: str | None = None) -> str:
        """Return stdout of `contree ARGUMENTS`, which must exit with `status`."""
        done = subprocess.run(
            [CONTREE, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self._home,
            env={
                "PATH": os.defpath,
                "HOME": str(self._home),
                "CONTREE_NO_UPDATE_CHECK": "1",
                "CONTREE_SESSION": "acceptance",
            },
        )
        assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def terminal(
    server: RunningServer, token: str, tmp_path_factory: pytest.TempPathFactory
) -> Terminal:
    made = Terminal(tmp_path_factory.mktemp("home"))
    made.type("auth", "--type", "jwt", "--url", server.url, "--token", token)
    return made


def test_import_run_look_and_tag(
    terminal: Terminal, server: RunningServer, busybox_url: str, api: Api
) -> None:
    assert server.url in terminal.type("auth", "ls")
    terminal.type("images", "import", busybox_url)
    (image,) = api.get("/images", tagged=1)["images"]
    assert image["tag"] in terminal.type("images")
    terminal.type("use", f"tag:{image['tag']}")

    said = terminal.type("run", "-s", "--", "mkdir /made && echo from the guest | tee /made/file")
    assert said == "from the guest\n"
    assert terminal.type("run", "-D", "--", "cat", stdin="through stdin") == "through stdin"
    terminal.type("run", "-D", "-s", "--", "exit 9", status=9)

    assert "file" in terminal.type("ls", "/made")
    assert terminal.type("cat", "/made/file") == "from the guest\n"
    assert "instance" in terminal.type("ps", "-a")
    newest, *_ = terminal.type("-o", "json", "ps", "-a", "-k", "instance").splitlines()
    (shown,) = terminal.type("show", "--raw", json.loads(newest)["uuid"]).splitlines()
    assert json.loads(shown)["metadata"]["result"]["state"]["exit_code"] == 9
    terminal.type("tag", "cli/made:1")
    tags = {row["tag"] for row in api.get("/images", tagged=1)["images"]}
    assert "cli/made:1" in tags
