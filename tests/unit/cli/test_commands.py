"""Which module has which command, and what asking for one of them imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from contree.cli import COMMANDS, command_line


def commands_of(argv: list[str]) -> set[str]:
    (action,) = (a for a in command_line(argv)._actions if a.choices is not None)
    assert action.choices is not None
    return set(action.choices)


@pytest.mark.parametrize("argv", [[], ["--help"], ["nonsense"]])
def test_whoever_names_no_command_is_shown_all(argv: list[str]) -> None:
    assert commands_of(argv) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_where_the_table_says(command: str) -> None:
    assert command in commands_of([command])


def test_a_worker_has_neither_web_server_nor_s3() -> None:
    program = "import sys, contree.cli.worker; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "libvirt" in loaded
    assert loaded.isdisjoint({"aiohttp", "aiobotocore", "botocore"})
