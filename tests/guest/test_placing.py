"""What FILE_BEGIN puts in place beside files: directories, links, times; many before one answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.commands import FileKind
from contree.adapters.microvm.agent.messages import FileOk, GuestError, GuestErrorCode
from tests.guest.conftest import Hosted


def put(agent: Hosted, path: Path, kind: FileKind, **fields: Any) -> None:
    """Send one thing without content, as uid 3 and gid 4."""
    values = {"uid": 3, "gid": 4, "mode": 0o750, "size": 0} | fields
    agent.send(commands.file_begin(path=os.fsencode(path), kind=kind, **values))
    agent.send(commands.file_end())


def test_a_directory_is_made_dressed_and_kept(agent: Hosted, tmp_path: Path) -> None:
    made = tmp_path / "a" / "d"
    put(agent, made, FileKind.DIRECTORY, mode=0o2750, mtime_s=-5)
    agent.expect(FileOk)
    (made / "inside").write_text("kept")
    put(agent, made, FileKind.DIRECTORY, mode=0o700, mtime_s=1_000_000_000)
    agent.expect(FileOk)
    status = made.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (3, 4, 0o700)
    assert status.st_mtime_ns == 1_000_000_000 * 10**9
    assert (made / "inside").read_text() == "kept"


def test_a_link_to_a_directory_stays_where_a_directory_is_put(
    agent: Hosted, tmp_path: Path
) -> None:
    (tmp_path / "usr").mkdir(mode=0o755)
    (tmp_path / "lib").symlink_to("usr")
    before = (tmp_path / "usr").stat()
    put(agent, tmp_path / "lib", FileKind.DIRECTORY)
    agent.expect(FileOk)
    assert (tmp_path / "lib").readlink() == Path("usr")
    assert (tmp_path / "usr").stat() == before


@pytest.mark.parametrize("standing", ["file", "link to nothing"])
def test_anything_else_makes_way_for_a_directory(
    agent: Hosted, tmp_path: Path, standing: str
) -> None:
    if standing == "file":
        (tmp_path / "x").write_text("gone")
    else:
        (tmp_path / "x").symlink_to("nowhere")
    put(agent, tmp_path / "x", FileKind.DIRECTORY)
    agent.expect(FileOk)
    assert (tmp_path / "x").is_dir()
    assert not (tmp_path / "x").is_symlink()


def test_a_symbolic_link_has_its_own_text_owner_and_time(agent: Hosted, tmp_path: Path) -> None:
    (tmp_path / "l").write_text("replaced")
    put(agent, tmp_path / "l", FileKind.SYMLINK, target=b"../../any text", mtime_s=7)
    agent.expect(FileOk)
    status = (tmp_path / "l").lstat()
    assert os.readlink(tmp_path / "l") == "../../any text"
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (3, 4, 7 * 10**9)


def test_a_hard_link_is_one_more_name_of_what_is_there(agent: Hosted, tmp_path: Path) -> None:
    (tmp_path / "first").write_text("one file")
    target = os.fsencode(tmp_path / "first")
    put(agent, tmp_path / "d" / "second", FileKind.HARD_LINK, target=target)
    agent.expect(FileOk)
    assert (tmp_path / "d" / "second").samefile(tmp_path / "first")
    put(agent, tmp_path / "third", FileKind.HARD_LINK, target=os.fsencode(tmp_path / "nothing"))
    error = agent.expect(GuestError)
    assert (error.code, error.errno) == (GuestErrorCode.IO, 2)


def test_many_files_are_answered_in_their_order(agent: Hosted, tmp_path: Path) -> None:
    """All frames are on their way before the first answer is read."""
    (tmp_path / "17").mkdir()
    frames = b""
    for number in range(2000):
        path = os.fsencode(tmp_path / str(number))
        frames += commands.file_begin(path=path, uid=0, gid=0, mode=0o644, size=1, mtime_s=number)
        frames += commands.file_data(b"x") + commands.file_end()
    agent.send(frames)
    for number in range(2000):
        agent.expect(GuestError if number == 17 else FileOk)
    assert (tmp_path / "1999").stat().st_mtime == 1999


@pytest.mark.parametrize(
    "frame",
    [
        b"\0" * 12 + b"\4\0\0\0" + b"\0" * 16 + b"\2\0/a\0\0",  # a kind that there is not
        b"\0" * 12 + b"\1\0\0\0" + b"\1" + b"\0" * 15 + b"\2\0/a\0\0",  # a directory with content
        b"\0" * 12 + b"\2\0\0\0" + b"\0" * 16 + b"\2\0/a\0\0",  # a symbolic link to nothing
        b"\0" * 12 + b"\3\0\0\0" + b"\0" * 16 + b"\2\0/a\1\0b",  # a hard link to a relative path
        b"\0" * 12 + b"\0\0\0\0" + b"\0" * 16 + b"\2\0/a\1\0b",  # a file with a target
    ],
)
def test_a_malformed_one_is_refused(agent: Hosted, frame: bytes) -> None:
    agent.send(len(frame).to_bytes(4, "little") + b"\3\0\0\0" + frame)
    assert agent.expect(GuestError).code is GuestErrorCode.BAD_FRAME
