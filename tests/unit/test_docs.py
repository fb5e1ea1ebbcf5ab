"""What the documents refer to is there: links lead somewhere, and `contreed` takes its lines."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from contree.cli import command_line, parsed

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`[^`\n]+`")
INLINE = re.compile(r"`contreed ([^`]+)`")
TYPED = re.compile(r"(?<![\w.`-])(?:[\w.]+/)*contreed +(?=[a-z-])")
ENDS = set("|;&()<>")
"""What ends a command in a shell."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """The fragments of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def typed(text: str) -> Iterator[list[str]]:
    """The arguments of each `contreed` in the blocks of a document, as a shell would split them."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines()[1:-1]:
            for found in TYPED.finditer(line):
                rest = line[found.end() :]
                if line[: found.start()].endswith("$("):
                    rest = rest.partition(")")[0]
                yield list(words(rest))


def words(line: str) -> Iterator[str]:
    shell = shlex.shlex(line, posix=True, punctuation_chars=True)
    shell.whitespace_split = True
    for word in shell:
        if ENDS.issuperset(word):
            return
        yield word


def parsers(command: list[str]) -> tuple[list[argparse.ArgumentParser], list[str]]:
    """The parsers that `audit key|verify ...` names, and the words that follow."""
    found = [command_line(None)]
    while command:
        below = [
            action.choices
            for parser in found
            for action in parser._actions
            if isinstance(action, argparse._SubParsersAction)
        ]
        if not below:
            break
        name, *command = command
        found = [choices[one] for choices in below for one in name.split("|")]
    return found, command


def test_there_are_documents_and_lines_to_look_at() -> None:
    assert {"README.md", "docs/operations.md"} <= set(map(named, DOCUMENTS))
    assert ["token", "create", "--project", "demo"] in typed((ROOT / "README.md").read_text())


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_each_link_leads_to_a_file_and_a_heading_of_it(path: Path) -> None:
    text = CODE.sub("", FENCE.sub("", path.read_text()))
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if fragment:
            assert fragment in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_each_line_with_contreed_can_be_typed(path: Path) -> None:
    for arguments in typed(path.read_text()):
        parsed(arguments)  # else SystemExit


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_each_mention_of_a_command_names_what_there_is(path: Path) -> None:
    for mention in INLINE.findall(FENCE.sub("", path.read_text())):
        options = re.sub(r"[][]", " ", mention.replace(r"\|", "|")).split()  # a table's escapes
        found, rest = parsers([word for word in options if not word.startswith("-")])
        for parser in found:
            there = parser._option_string_actions
            named_options = [word for word in options if re.match(r"--?[a-z]", word)]
            assert set(named_options) <= set(there), mention
        assert not [word for word in rest if "|" in word and word.islower()], mention
