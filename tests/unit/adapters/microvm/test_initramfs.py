"""Archives built from small fake ELF files and taken apart again by a reader written here."""

import re
import stat
from pathlib import Path

import pytest

from contree.adapters.microvm.boot.initramfs import (
    AGENT_MODULES,
    MAX_AGENT_BYTES,
    InitramfsError,
    build_initramfs,
    find_modules,
)

BOOT_C = Path(__file__).parents[4] / "guest" / "src" / "boot.c"


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent"
    path.write_bytes(b"\x7fELF agent!")
    return path


@pytest.fixture
def modules_dir(tmp_path: Path) -> Path:
    for number, name in enumerate(AGENT_MODULES):
        path = tmp_path / "modules" / f"kernel{number % 3}" / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7fELF" + name.encode())
    (tmp_path / "modules" / "kernel0" / "other.ko").write_bytes(b"\x7fELF other")
    return tmp_path / "modules"


def unpack(archive: bytes) -> dict[str, tuple[list[int], bytes]]:
    """Return header fields and data by name; kernel documentation, initramfs buffer format."""
    members: dict[str, tuple[list[int], bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return members
        members[name] = (fields, archive[start : start + size])
        at = (start + size + 3) // 4 * 4


def test_the_archive_holds_agent_console_and_modules(
    agent: Path, modules_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.cpio"
    build_initramfs(agent, find_modules(modules_dir), out)
    members = unpack(out.read_bytes())
    assert set(members) == {
        "dev",
        "dev/console",
        "init",
        "modules",
        *(f"modules/{name}.ko" for name in AGENT_MODULES),
    }
    init, data = members["init"]
    assert (init[1], data) == (stat.S_IFREG | 0o755, b"\x7fELF agent!")
    console, _ = members["dev/console"]
    assert (console[1], console[9:11]) == (stat.S_IFCHR | 0o600, [5, 1])
    assert members["modules/overlay.ko"][1] == b"\x7fELFoverlay"
    inodes = [fields[0] for fields, _ in members.values()]
    assert len(set(inodes)) == len(inodes)


def test_equal_inputs_give_equal_bytes_in_any_order(
    agent: Path, modules_dir: Path, tmp_path: Path
) -> None:
    modules = find_modules(modules_dir)
    build_initramfs(agent, modules, tmp_path / "a")
    agent.touch()
    build_initramfs(agent, modules[::-1], tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_modules_are_those_the_agent_loads_in_its_order() -> None:
    table = BOOT_C.read_text().partition("MODULES[] = {")[2].partition("};")[0]
    assert tuple(re.findall(r'"(\w+)"', table)) == AGENT_MODULES


def test_a_missing_module_is_named(modules_dir: Path) -> None:
    next(modules_dir.rglob("squashfs.ko")).unlink()
    with pytest.raises(InitramfsError, match="squashfs"):
        find_modules(modules_dir)


def test_bad_inputs_are_refused_and_nothing_is_left_behind(
    agent: Path, modules_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "empty" / "out.cpio"
    out.parent.mkdir()
    modules = find_modules(modules_dir)
    with pytest.raises(InitramfsError, match="overlay"):
        build_initramfs(agent, modules[:-1], out)
    with pytest.raises(InitramfsError, match="same name"):
        build_initramfs(agent, [*modules, modules[0]], out)
    agent.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(InitramfsError, match="not an ELF"):
        build_initramfs(agent, modules, out)
    agent.write_bytes(b"\x7fELF" + bytes(MAX_AGENT_BYTES))
    with pytest.raises(InitramfsError, match="larger than"):
        build_initramfs(agent, modules, out)
    assert list(out.parent.iterdir()) == []
