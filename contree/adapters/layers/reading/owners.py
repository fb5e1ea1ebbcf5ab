"""Names for uids and gids, from an image's own /etc/passwd and /etc/group.

Both files belong to whoever made the image: read to a bound, odd lines skipped, names cut. A name
is decoration: nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_NAME_CHARS_MAX: Final = 64
_ID_DIGITS_MAX: Final = 10
_ID_FIELD: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """Names by number; a number without a name is its decimal digits."""

    users: Mapping[int, str] = field(default_factory=dict)
    groups: Mapping[int, str] = field(default_factory=dict)

    def user(self, uid: int) -> str:
        return self.users.get(uid) or str(uid)

    def group(self, gid: int) -> str:
        return self.groups.get(gid) or str(gid)


def parse_accounts(text: bytes) -> dict[int, str]:
    """Return names by id of passwd(5) or group(5) text: the first line for an id counts."""
    names: dict[int, str] = {}
    for line in text.split(b"\n"):
        fields = line.split(b":", 3)
        if len(fields) <= _ID_FIELD:
            continue
        digits = fields[_ID_FIELD]
        if not digits.isdigit() or len(digits) > _ID_DIGITS_MAX:
            continue
        name = fields[0].decode("utf-8", "replace")[:_NAME_CHARS_MAX]
        # A name of control characters would break the text listing.
        if name and name.isprintable():
            names.setdefault(int(digits), name)
    return names
