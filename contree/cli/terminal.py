"""Long answers on a terminal: through a pager, coloured, without what a terminal would obey.

Into a pipe or file they go as they are.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from contree.config import pager_of_user, wants_no_colour
from contree.programs import CAT

RESET: Final = b"\x1b[m"
BOLD: Final = b"\x1b[1m"
RED: Final = b"\x1b[31m"
GREEN: Final = b"\x1b[32m"
YELLOW: Final = b"\x1b[33m"
CYAN: Final = b"\x1b[36m"

_DEFAULT_PAGER: Final = "less -FRX"
_OBEYED: Final = bytes(
    ord("?") if (byte < 32 and byte not in b"\t\n") or byte == 127 else byte  # noqa: PLR2004 - controls
    for byte in range(256)
)

Write = Callable[[bytes], None]
Style = Callable[[bytes], bytes | None]
"""The colour of a line, None for none."""


@contextmanager
def shown(style: Style, *, colour: str = "auto", pager: bool = True) -> Iterator[Write]:
    """Give what writes to the standard output. `colour` is auto, always or never.

    A reader that goes away early, as `head` and a pager do, ends it without a word.
    """
    sys.stdout.flush()
    is_terminal = sys.stdout.isatty()
    coloured = colour == "always" or (colour == "auto" and is_terminal and not wants_no_colour())
    through = _pager() if is_terminal and pager else None
    out = sys.stdout.buffer if through is None or through.stdin is None else through.stdin
    lines = _Lines(style if coloured else None, plain=is_terminal)
    try:
        yield lambda piece: _write(out.write, lines.of(piece))
        _write(out.write, lines.rest())
        out.flush()
    except BrokenPipeError:
        if through is None:  # what Python still holds for it is for nobody
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        if through is not None:
            with suppress(BrokenPipeError):
                out.close()
            through.wait()


class _Lines:
    """Styles whole lines; a piece may end in the middle of one."""

    def __init__(self, style: Style | None, *, plain: bool) -> None:
        self._style = style
        self._plain = plain
        self._rest = b""

    def of(self, piece: bytes) -> bytes:
        if self._style is None:
            return piece.translate(_OBEYED) if self._plain else piece
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return b"".join(self._styled(line) + b"\n" for line in lines)

    def rest(self) -> bytes:
        return self._styled(self._rest) if self._rest else b""

    def _styled(self, line: bytes) -> bytes:
        assert self._style is not None
        colour = self._style(line)
        line = line.translate(_OBEYED)
        return line if colour is None else colour + line + RESET


def _write(write: Callable[[bytes], object], piece: bytes) -> None:
    if piece:
        write(piece)


def _pager() -> subprocess.Popen[bytes] | None:
    command = shlex.split(pager_of_user() or _DEFAULT_PAGER)
    if not command or command == [CAT.name] or shutil.which(command[0]) is None:
        return None
    return subprocess.Popen(command, stdin=subprocess.PIPE)
