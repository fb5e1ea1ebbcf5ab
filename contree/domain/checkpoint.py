"""What a log's owner commits to (C2SP tlog-checkpoint): so many events, with this root hash.

    <origin>                 names the log
    <size>                   leaves, decimal
    <root>                   base64
    time <YYYY-MM-DDTHH:MM:SSZ>   our extension line: when it was signed, by the signer's clock

It is the text of a signed note; unknown further lines are allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from contree.domain.errors import InvalidFieldError
from contree.domain.merkle import HASH_BYTES
from contree.domain.note import b64decoded, b64encoded

SIZE_MAX = 2**63 - 1
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

_SIZE = re.compile("0|[1-9][0-9]{0,18}")
_TIME = re.compile(r"time (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """`at` is aware UTC, in whole seconds; None in checkpoints that others made without it."""

    origin: str
    size: int
    root: bytes
    at: datetime | None

    def text(self) -> str:
        """What is signed."""
        lines = [self.origin, str(self.size), b64encoded(self.root)]
        if self.at is not None:
            lines.append(f"time {self.at:{TIME_FORMAT}}")
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a note's text. Raises InvalidFieldError."""
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < 3 or not all(lines):  # noqa: PLR2004 - origin, size, root
            raise InvalidFieldError("checkpoint", "is not origin, size and root hash, line by line")
        origin, size, root, *extensions = lines
        if not _SIZE.fullmatch(size) or int(size) > SIZE_MAX:
            raise InvalidFieldError("checkpoint", f"'{size[:40]}' is not a size")
        hash_ = b64decoded(root, field="checkpoint root")
        if len(hash_) != HASH_BYTES:
            raise InvalidFieldError("checkpoint root", f"has {len(hash_)} bytes, not {HASH_BYTES}")
        return cls(origin=origin, size=int(size), root=hash_, at=_time_in(extensions))


def _time_in(extensions: list[str]) -> datetime | None:
    for line in extensions:
        if found := _TIME.fullmatch(line):
            try:
                return datetime.strptime(found[1], TIME_FORMAT).replace(tzinfo=UTC)
            except ValueError as error:
                raise InvalidFieldError("checkpoint", f"'{line}' is not a time") from error
    return None
