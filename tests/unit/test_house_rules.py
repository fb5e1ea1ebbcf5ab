"""What linters cannot hold: sizes, names, purity. Reads the source; runs nothing of it."""

import ast
from pathlib import Path

import pytest

from contree.domain import errors

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "contree").rglob("*.py"))
C_FILES = sorted((ROOT / "guest" / "src").glob("*.c"))
MODULE_LINES_MAX = 400
C_FILE_LINES_MAX = 420
FUNCTION_LINES_MAX = 70
BANNED_NAMES = {"utils", "helpers", "common", "manager", "base", "misc"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_says_what_it_is_for_and_stays_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert path.stem not in BANNED_NAMES
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{named(path)} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", C_FILES, ids=named)
def test_a_file_of_the_agent_stays_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= C_FILE_LINES_MAX


@pytest.mark.parametrize("path", sorted((ROOT / "contree" / "domain").glob("*.py")), ids=named)
def test_the_domain_is_synchronous(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await)


def _subclasses(cls: type[errors.ContreeError]) -> set[type[errors.ContreeError]]:
    return {cls} | {d for s in cls.__subclasses__() for d in _subclasses(s)}


def test_every_error_has_a_code_of_its_own() -> None:
    classes = {c for c in _subclasses(errors.ContreeError) if c.__module__ == errors.__name__}
    assert len({c.code for c in classes}) == len(classes)
    assert all(c.__doc__ for c in classes)


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        named(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    assert readers <= {
        "contree/config.py",
        # What follows hands on or sets the environment of programs and libraries, and reads none
        # of our settings: PATH for mkfs, libvirt's own log.
        "contree/adapters/microvm/disks/scratch_disk.py",
        "contree/adapters/microvm/hypervisor/connection.py",
    }
