"""The one list of Debian packages, as infra/setup/setup.sh reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LIST = Path(__file__).parents[3] / "infra" / "system-packages.txt"
ENTRY = re.compile(r"(dev )?(unpack )?([a-z0-9][a-z0-9.+-]+)")


def entries() -> list[tuple[str, str, str]]:
    lines = (line.partition("#")[0].rstrip() for line in LIST.read_text().splitlines())
    found = [ENTRY.fullmatch(line) for line in lines if line]
    return [(one[1] or "", one[2] or "", one[3]) for one in found if one is not None]


def test_every_line_is_an_entry_and_no_package_is_named_twice() -> None:
    lines = [line for line in LIST.read_text().splitlines() if line and line[0] != "#"]
    assert len(entries()) == len(lines)
    assert len({name for *_, name in entries()}) == len(lines)


@pytest.mark.parametrize("name", ["skopeo", "mmdebstrap", "uidmap", "nginx", "docker-registry"])
def test_the_service_is_installed_without_what_only_demo_and_tests_need(name: str) -> None:
    [(dev, _, _)] = [entry for entry in entries() if entry[2] == name]
    assert dev == "dev "


def test_the_guest_kernel_comes_with_the_service() -> None:
    assert ("", "unpack ", "linux-image-cloud-amd64") in entries()
