"""What every command says about a data directory that is not there: nothing is made of a typo."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from contree.cli import NOT_CHECKED, command_line, run
from contree.config import Settings

ID = "00000000-0000-0000-0000-000000000000"
COMMANDS: dict[str, tuple[str, ...]] = {
    "api": (),
    "worker": (),
    "token create": ("--project", "p"),
    "token list": (),
    "token revoke": (ID,),
    "project list": (),
    "project show": ("p",),
    "project hold": ("p", "--reason", "r"),
    "project release": ("p",),
    "project retention": ("p", "--days", "3"),
    "project erase": ("p", "--confirm", "p"),
    "operation list": (),
    "operation show": (ID,),
    "operation cancel": (ID,),
    "status": (),
    "dsn": (),
    "projections rebuild": ("--check",),
    "audit log": (),
    "audit key": (),
    "audit verify": (),
    "audit prove": (ID,),
    "audit export": ("out",),
    "audit consistency": ("--from", "3"),
    "audit rebuild": (),
    "lineage": (ID,),
    "diff": (ID, ID),
    "log": (ID,),
    "blame": (ID, "/etc"),
    "replay": (ID,),
}
CHECKS = {"audit verify", "projections rebuild", "replay"}
"""Nothing was found to be wrong: their status says that nothing was looked at."""
MAKE_OR_NEED_NONE = {"serve", "doctor", "audit check"}


def leaves(parser: argparse.ArgumentParser, path: str = "") -> Iterator[str]:
    """The commands that do something, by what is typed."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not nested:
        yield path
    for action in nested:
        for name, below in action.choices.items():
            yield from leaves(below, f"{path} {name}".strip())


@pytest.fixture(autouse=True)
def _warnings_as_they_were() -> Iterator[None]:
    yield
    logging.captureWarnings(capture=False)


def test_each_command_is_tried_here() -> None:
    assert set(leaves(command_line(None))) == set(COMMANDS) | MAKE_OR_NEED_NONE


@pytest.mark.parametrize("command", COMMANDS)
def test_a_directory_that_is_not_there_is_refused_and_not_made(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    typo = tmp_path / "typo"
    status = run([*command.split(), *COMMANDS[command], "--data-dir", str(typo)])
    said = capsys.readouterr()
    assert (status, said.out) == (NOT_CHECKED if command in CHECKS else 1, "")
    assert said.err == (
        f"contreed: no installation in '{typo}': start one with `contreed serve --data-dir {typo}`,"
        " name another with --data-dir, or set database_url\n"
    )
    assert list(tmp_path.iterdir()) == []
    assert not Settings(data_dir=typo).runtime_dir.exists()
