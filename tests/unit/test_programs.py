"""The table of programs, against the list of packages and the code that starts them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from contree import programs
from contree.domain.errors import UnavailableError
from contree.programs import MKE2FS, RIPGREP, SQFSTAR

ROOT = Path(__file__).parents[2]
ESSENTIAL = {"coreutils", "util-linux"}
"""Of every Debian."""
LOGIN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
"""What Debian gives an ordinary user; login.defs(5)."""


def test_every_package_is_one_that_make_setup_installs() -> None:
    lines = (ROOT / "infra" / "system-packages.txt").read_text().splitlines()
    installed = {line.split()[0] for line in lines if line and line[0] != "#"}
    assert {program.package for program in programs.ALL} - ESSENTIAL <= installed


def test_nothing_is_started_by_a_bare_name() -> None:
    """A name that is started elsewhere than through the table would be looked for on PATH only."""
    names = {program.name for program in programs.ALL}
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "contree").rglob("*.py")
        if path != Path(programs.__file__)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert found == set()


def test_an_ordinary_user_finds_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", LOGIN_PATH)
    assert programs.lacking(programs.ALL) is None
    assert Path(MKE2FS.path()).name == "mke2fs"


def test_what_is_lacking_is_named_with_what_to_install_and_found_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.lacking((MKE2FS, SQFSTAR, RIPGREP)) == (
        "sqfstar is not installed (makes the layer of a waiting guest): "
        "apt-get install squashfs-tools; "
        "rg is not installed (searches images): apt-get install ripgrep"
    )
    with pytest.raises(UnavailableError, match="apt-get install squashfs-tools"):
        SQFSTAR.path()
    program = tmp_path / "sqfstar"
    program.touch(mode=0o755)
    assert SQFSTAR.path() == str(program)
