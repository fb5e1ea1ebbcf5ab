"""Long answers on a terminal, in a pipe, and for readers that leave early; each a real process."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

WRITER = """
import sys
from contree.cli.terminal import RED, shown
with shown(lambda line: RED if line.startswith(b"-") else None, colour=sys.argv[1]) as write:
    for piece in (b"-old\\n pl", b"ain\\x1b[2J\\n", b"end"):
        write(piece)
    for _ in range(int(sys.argv[2])):
        write(b"x\\n" * 100_000)
"""
PLAIN = b"-old\n plain\x1b[2J\nend"
COLOURED = b"\x1b[31m-old\x1b[m\n plain?[2J\nend"


def command(colour: str = "auto", times: int = 0) -> list[str]:
    return [sys.executable, "-c", WRITER, colour, str(times)]


def on_terminal(*, colour: str = "auto", **variables: str) -> bytes:
    """Return what the process writes to a pseudo-terminal."""
    parent, child = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    done = subprocess.Popen(command(colour), stdout=child, env=environment | variables)
    os.close(child)
    written = b""
    try:
        while piece := os.read(parent, 4096):
            written += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(parent)
    assert done.wait() == 0
    return written.replace(b"\r\n", b"\n")


def test_a_pipe_gets_it_as_it_is() -> None:
    assert subprocess.run(command(), capture_output=True, check=True).stdout == PLAIN


def test_colours_can_be_asked_for_in_a_pipe() -> None:
    assert subprocess.run(command("always"), capture_output=True, check=True).stdout == COLOURED


def test_a_terminal_gets_colours_and_nothing_that_it_would_obey() -> None:
    assert on_terminal(PAGER="cat") == COLOURED
    assert on_terminal(PAGER="cat", NO_COLOR="1") == b"-old\n plain?[2J\nend"
    assert on_terminal(PAGER="cat", colour="never") == b"-old\n plain?[2J\nend"


def test_it_goes_through_the_pager_of_the_user(tmp_path: Path) -> None:
    paged = tmp_path / "paged file"
    pager = f"sh -c {shlex.quote(f'cat > {shlex.quote(str(paged))}')}"
    assert on_terminal(PAGER=pager) == b""
    assert paged.read_bytes() == COLOURED


def test_a_reader_may_leave_early() -> None:
    with subprocess.Popen(
        command(times=20), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stdout.readline() == b"-old\n"
        writer.stdout.close()
        assert writer.stderr.read() == b""
        assert writer.wait() == 0
