"""Searching the contents of an image's files for regular expressions, without a VM.

Implemented by adapters.layers.search with ripgrep; tests/contracts/test_image_search.py. Nothing
here runs in a guest and nothing is written to the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

LINE_TEXT_BYTES_MAX = 4096
"""How much of a line is shown."""


class CaseMode(StrEnum):
    """SMART ignores case unless a pattern has an upper-case letter."""

    SENSITIVE = "sensitive"
    INSENSITIVE = "insensitive"
    SMART = "smart"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """What to look for, and where.

    patterns   Rust regular expressions; a line that any of them matches is a match
    paths      directories or files, absolute and normalised (domain.guest_path)
    globs      as `rg -g` run in the image's root takes them: later ones win, `!` leaves out, one
               with a slash in it starts at the root; a file named in `paths` is searched anyhow
    max_count  matching lines of one file, None = all
    max_total  matching lines of all files
    before     lines of context; these do not count as matches, nor do those `after`
    """

    patterns: Sequence[str]
    paths: Sequence[str] = ("/",)
    globs: Sequence[str] = ()
    max_count: int | None = None
    max_total: int = 1000
    case: CaseMode = CaseMode.SENSITIVE
    before: int = 0
    after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submatch:
    """`start` and `end` are byte offsets in the line; `text` is lossy UTF-8, cut as lines are."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLine:
    """A line that matches, or with `is_match` false one of its context.

    path             as asked for, then down; bytes decoded with surrogateescape
    line_number      from 1
    absolute_offset  of the line in the file, in bytes
    line_text        lossy UTF-8 with the line's terminator, at most LINE_TEXT_BYTES_MAX bytes
    line_bytes       the line's real length
    """

    path: str
    line_number: int
    absolute_offset: int
    line_text: str
    line_bytes: int
    is_match: bool
    submatches: Sequence[Submatch] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """`truncated`: there may be more, because of `max_total`, the time, or a bound on sizes."""

    lines: Sequence[FoundLine]
    truncated: bool


class ImageSearch(Protocol):
    """Searches the filesystem of an image: `layers` are its diff_ids, bottom to top.

    Only regular files are searched, hidden ones too, whatever ignore files say; symbolic links are
    followed in `paths` alone, inside the image. A file with a NUL byte is binary and is not
    searched, unless a byte order mark says that it is UTF-16. The lines come in the order of
    `paths`, below each in the order of a listing, directory by directory; a file that several
    `paths` reach by one name is searched once.
    """

    async def search(self, layers: Sequence[str], query: SearchQuery) -> SearchResult:
        """Return what is found, possibly nothing.

        Raises NotFoundError when one of the paths does not exist, InvalidFieldError naming
        `pattern` or `glob` when one is malformed, StorageFullError, UnavailableError when there is
        no ripgrep here.
        """
        ...
