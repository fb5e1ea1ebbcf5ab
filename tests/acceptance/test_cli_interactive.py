"""contree-cli with a person before it: its shell on a pseudo-terminal, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess

import pytest

from infra.images.registry import PASSWORD, USERNAME, RunningRegistry
from infra.images.rootfs import small_image
from tests.acceptance.api import Api
from tests.acceptance.terminal import Terminal
from tests.support.server import RunningServer

TRAPPING = (
    "trap 'echo caught; sleep 1; echo last words; exit 7' INT; echo up; while :; do sleep 0.1; done"
)
PROMPT = r"\(main\) /[a-z]* \$ "


@pytest.fixture(scope="module")
def terminal(terminal: Terminal) -> Terminal:
    terminal.type("use", "tag:busybox:latest")
    terminal.program("nano", 'echo edited >>"$1"')
    return terminal


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def newest(api: Api) -> str:
    return str(api.get("/operations", limit=1)[0]["uuid"])


def test_ctrl_c_is_the_commands_to_catch_and_the_rest_of_its_output_arrives(
    terminal: Terminal,
) -> None:
    with terminal.start("run", "-D", "-s", "--", TRAPPING) as process:
        assert first_line(process) == "up\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=300)
        assert (rest, process.returncode) == ("caught\nlast words\n", 7)


def test_a_second_ctrl_c_cancels_the_run(terminal: Terminal, api: Api) -> None:
    deaf = "trap 'echo no' INT; echo up; while :; do sleep 0.1; done"
    with terminal.start("run", "-D", "-s", "--", deaf) as process:
        assert first_line(process) == "up\n"
        process.send_signal(signal.SIGINT)
        assert first_line(process) == "no\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
        assert process.returncode == 1
    assert api.wait(newest(api))["status"] == "CANCELLED"


def test_a_reader_that_goes_away_ends_the_run(terminal: Terminal, api: Api) -> None:
    with terminal.start("run", "-D", "--", "yes") as process:
        assert first_line(process) == "y\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(300) == 141
    assert api.wait(newest(api))["status"] == "CANCELLED"


def test_the_shell_keeps_state_and_talks_to_what_it_runs(terminal: Terminal) -> None:
    with terminal.sit_down("shell") as screen:
        screen.wait_for(PROMPT)

        def enter(line: str) -> str:
            screen.type(line)
            screen.wait_for("\r\n")  # the line itself, as the terminal shows it
            return screen.wait_for(PROMPT)

        assert "3\r\n" in enter("mkdir /work; echo one >/work/file; echo 1 2 3 | wc -w")
        enter("cd /work")
        assert "/work\r\n" in enter("pwd")
        assert "file\r\n" in enter("ls")
        assert "one\r\n" in enter("cat file")
        assert "aside" in enter("contree session branch aside")
        enter("nano file")
        assert "one\r\nedited\r\n" in enter("cat file")
        assert "timed out after 1s" in enter("timeout 1 sleep 600")

        screen.type("while read line; do echo [$line]; done")
        for word in ("alpha", "beta"):
            screen.type(word)
            screen.wait_for(rf"\[{word}\]")
        screen.press("d")
        screen.wait_for(PROMPT)
        screen.type(TRAPPING)
        screen.wait_for("\nup\r\n")
        screen.press("c")
        screen.wait_for("last words")
        screen.wait_for(PROMPT)
        screen.type("exit")
        assert screen.ended() == 0


def test_a_token_is_asked_for_and_not_shown(
    terminal: Terminal, server: RunningServer, token: str
) -> None:
    with terminal.sit_down("auth", "--type", "jwt", "--profile", "typed") as screen:
        screen.wait_for("Token: ")
        screen.type(token)
        screen.wait_for("URL: ")
        screen.type(server.url)
        assert token not in screen.wait_for("auth accepted")
        assert screen.ended() == 0
    assert "typed" in {row["name"] for row in terminal.rows("auth", "ls") if row["status"] == "ok"}


def test_a_registrys_password_is_asked_for_and_not_shown(
    terminal: Terminal, guarded_registry: RunningRegistry
) -> None:
    image = small_image()
    url = guarded_registry.push(image.layout, image.tag, image.repository)
    with terminal.sit_down("images", "import", "--username", USERNAME, url) as screen:
        screen.wait_for("Registry password: ")
        screen.type(PASSWORD)
        assert PASSWORD not in screen.wait_for("SUCCESS")
        assert screen.ended() == 0
