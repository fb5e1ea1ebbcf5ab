"""Which files `rg -g` would take: ripgrep's globs on names of an image, which are not on any disk.

A glob becomes a regular expression over the bytes of a path, by the rules of ripgrep's `globset`
(its documentation, "Syntax") and those for overrides of its `ignore` (gitignore(5), turned round:
a plain glob takes files, `!` leaves them out). Malformed globs are not told here: ripgrep itself
looks at them first (`process`). tests hold this to the real program.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_ANY: Final = b"[^/]"
_STAR: Final = b"[^/]*"
_PREFIX: Final = b"(?:/?|.*/)"
_SUFFIX: Final = b"/.*"
_BETWEEN: Final = b"(?:/|/.*/)"
_SLASH: Final = b"/"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    takes: bool
    only_directories: bool
    matches: re.Pattern[bytes]


class Globs:
    """The globs of one search. Paths are relative to the image's root, without leading slash."""

    def __init__(self, globs: Sequence[str]) -> None:
        rules = [rule for glob in globs if (rule := _rule(glob)) is not None]
        self._last_first = rules[::-1]
        self._some_take = any(rule.takes for rule in rules)

    def __bool__(self) -> bool:
        return bool(self._last_first)

    def takes_file(self, path: bytes) -> bool:
        """Say whether a file is searched, if all directories above it are entered."""
        for rule in self._last_first:
            if not rule.only_directories and rule.matches.fullmatch(path):
                return rule.takes
        return not self._some_take

    def enters(self, directory: bytes) -> bool:
        """Say whether a directory is entered, if those above it are."""
        for rule in self._last_first:
            if rule.matches.fullmatch(directory):
                return rule.takes
        return True


def _rule(line: str) -> _Rule | None:
    """Return what one glob says; None for comments and blank ones, which say nothing."""
    if line.startswith("#"):
        return None
    if not line.endswith("\\ "):
        line = line.rstrip()
    if not line:
        return None
    takes, anchored, only_directories = True, False, False
    if line.startswith(("\\!", "\\#")):
        line = line[1:]
    else:
        if line.startswith("!"):
            takes, line = False, line[1:]
        if line.startswith("/"):
            anchored, line = True, line[1:]
    if line.endswith("/"):
        only_directories = True
        line = line[:-1]
        if (len(line) - len(line.rstrip("\\"))) % 2:
            line = line[:-1]  # it escaped the slash; older ripgreps refuse that
    if not anchored and "/" not in line and line != "**":
        line = f"**/{line}"
    if line.endswith("/**"):
        line += "/*"  # what is in the directory, not the directory itself
    return _Rule(
        takes=takes,
        only_directories=only_directories,
        matches=re.compile(_Translation(line).pattern(), re.DOTALL),
    )


class _Translation:
    """One glob, read from left to right; `_parts` holds the pieces of what is being read."""

    def __init__(self, glob: str) -> None:
        self._glob = glob
        self._at = 0
        self._parts: list[bytes] = []
        self._outside: list[bytes] | None = None  # what stood before an open `{`
        self._choices: list[bytes] = []

    def pattern(self) -> bytes:
        previous = ""
        while self._at < len(self._glob):
            letter = self._take()
            if letter == "*":
                self._star(previous)
            elif letter == "\\":
                self._parts.append(_literal(self._take()))
            elif letter == "?":
                self._parts.append(_ANY)
            elif letter == "[":
                self._class()
            elif letter == "{":
                self._outside, self._parts, self._choices = self._parts, [], []
            elif letter == "," and self._outside is not None:
                self._end_choice()
            elif letter == "}" and self._outside is not None:
                self._end_choice()
                chosen = [choice for choice in self._choices if choice]
                self._parts, self._outside = self._outside, None
                self._parts.append(b"(?:" + b"|".join(chosen) + b")" if chosen else b"")
            elif letter == "}":
                self._parts.append(b"")  # of no `{`: as if it were not there
            else:
                self._parts.append(_literal(letter))
            previous = self._glob[self._at - 1]
        if self._parts == [_PREFIX]:
            return b".*"  # `**` alone is everything
        return b"".join(self._parts)

    def _end_choice(self) -> None:
        self._choices.append(b"".join(self._parts))
        self._parts = []

    def _take(self) -> str:
        letter = self._glob[self._at]
        self._at += 1
        return letter

    def _next(self) -> str:
        return self._glob[self._at : self._at + 1]

    def _star(self, previous: str) -> None:
        """`*`, or `**` where it stands for directories: alone between slashes."""
        if self._next() != "*":
            self._parts.append(_STAR)
            return
        self._at += 1
        after = self._next()
        if not self._parts:
            inside = self._outside is not None
            if after in ("", "/") and not (inside and previous not in ("{", ",")):
                self._parts.append(_PREFIX)
                self._at += len(after)
            else:
                self._parts.append(_STAR)
            return
        ends = after == "" or (after in (",", "}") and self._outside is not None)
        if previous != "/" or not (ends or after == "/"):
            self._parts.append(_STAR)
            return
        self._at += 0 if ends else 1
        before = self._parts.pop()  # the slash, or what an earlier `**` has made of it
        if before in (_PREFIX, _SUFFIX):
            self._parts.append(before)
        else:
            self._parts.append(_SUFFIX if ends else _BETWEEN)

    def _class(self) -> None:
        negated = self._next() in ("!", "^") and bool(self._next())
        self._at += negated
        ranges: list[tuple[str, str]] = []
        in_range = False
        while True:
            letter = self._take()
            if letter == "]" and ranges:
                break
            if letter == "-" and ranges and not in_range:
                in_range = True
                continue
            if in_range:
                ranges[-1] = (ranges[-1][0], letter)
                in_range = False
            else:
                ranges.append((letter, letter))
        if in_range:
            ranges.append(("-", "-"))
        said = b"".join(
            _literal(low) if low == high else _literal(low) + b"-" + _literal(high)
            for low, high in ranges
        )
        self._parts.append(b"[" + b"^" * negated + said + b"]")


def _literal(letter: str) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in letter.encode())
