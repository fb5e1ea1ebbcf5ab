"""Paths after `--` on the command line, wherever the options stand."""

from __future__ import annotations

import pytest

from contree.cli import parsed
from contree.cli.diff import guest_paths

ID = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    "argv",
    [
        ["diff", ID, ID, "--stat", "--", "a", "--b"],
        ["diff", "--stat", ID, ID, "a", "--", "--b"],
        ["diff", ID, "--stat", ID, "--", "a", "--b"],
    ],
)
def test_options_may_stand_before_the_paths(argv: list[str]) -> None:
    arguments = parsed(argv)
    assert (arguments.form, arguments.paths) == ("stat", ["a", "--b"])
    assert guest_paths(arguments.paths) == ("/a", "/--b")


def test_a_command_without_paths_takes_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(["lineage", ID, "--", "a"])
    assert "unrecognized arguments: -- a" in capsys.readouterr().err
