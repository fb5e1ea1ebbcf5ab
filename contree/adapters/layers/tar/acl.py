"""POSIX ACLs of a tar's entries, which no layer keeps: to a mode that gives nobody more than they.

squashfs has no place for them, so a guest cannot be shown them. To leave them out is not enough:
where a file has an ACL, the group bits of its mode are the ACL's mask (acl(5)), and would give the
owning group what was given to one named user. Nor may a user or group whom an entry held back fall
to the bits of "group" or "other". So each of the three sets of bits becomes what all who will be
judged by it had before. An ACL that makes no sense leaves the rights of the owner alone.

Both forms that archivers write are read: the kernel's bytes (linux/posix_acl_xattr.h) and the text
of star, GNU tar and libarchive. Bytes from outside: nothing here raises.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import and_
from typing import Final, NamedTuple

from contree.adapters.layers.tar.fields import XATTR_PREFIX

ACCESS_XATTR: Final = b"system.posix_acl_access"
DEFAULT_XATTR: Final = b"system.posix_acl_default"
ACL_XATTRS: Final = frozenset((ACCESS_XATTR, DEFAULT_XATTR))
"""What is left out of each entry."""

_BINARY: Final = XATTR_PREFIX + ACCESS_XATTR
_TEXTUAL: Final = b"SCHILY.acl.access"

_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_TAGS: Final = frozenset((_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER))
_ALL: Final = 0o7

_OWNER_ALONE: Final = 0o7700
_TEXT: Final = re.compile(
    rb"(?:(?P<who>u|user|g|group):(?P<name>[^:]*)|(?P<rest>m|mask|o|other):?)"
    rb":(?P<rights>[r-][w-][x-])(?::[0-9]*)?\Z"
)
"""One entry; libarchive and star put a named one's number behind its rights."""


class _Entry(NamedTuple):
    tag: int
    rights: int


def mode_without_acl(mode: int, pax: Mapping[bytes, bytes]) -> int:
    """Return the mode of an entry whose extended header is `pax`, now that its ACL goes."""
    if _BINARY in pax:
        mode &= _mode_bits(_from_bytes(pax[_BINARY]))
    if _TEXTUAL in pax:
        mode &= _mode_bits(_from_text(pax[_TEXTUAL]))
    return mode


def _mode_bits(acl: list[_Entry] | None) -> int:
    """Return the bits that may stay; those above the nine of rights do."""
    if acl is None or not _is_whole(acl):
        return _OWNER_ALONE
    mask = _common(acl, _MASK)
    named_users = mask & _common(acl, _USER) if _has(acl, _USER) else _ALL
    named_groups = mask & _common(acl, _GROUP) if _has(acl, _GROUP) else _ALL
    # A named user may be in the owning group, and was judged by the entry with the name alone.
    # Whoever is in several groups had the rights of each: a named group takes the owning one none.
    group = _common(acl, _GROUP_OBJ) & mask & named_users
    other = _common(acl, _OTHER) & named_users & named_groups
    return 0o7000 | _common(acl, _USER_OBJ) << 6 | group << 3 | other


def _is_whole(acl: list[_Entry]) -> bool:
    """As the kernel has it (posix_acl_valid), but for the order."""
    tags = [entry.tag for entry in acl]
    once = all(tags.count(tag) == 1 for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER))
    named = _USER in tags or _GROUP in tags
    return once and tags.count(_MASK) <= 1 and (_MASK in tags or not named)


def _has(acl: Iterable[_Entry], tag: int) -> bool:
    return any(entry.tag == tag for entry in acl)


def _common(acl: Iterable[_Entry], tag: int) -> int:
    """Return the rights that all entries with this tag give; all rights when there is none."""
    return reduce(and_, (entry.rights for entry in acl if entry.tag == tag), _ALL)


def _from_bytes(value: bytes) -> list[_Entry] | None:
    size = len(value) - _HEADER.size
    if size < 0 or size % _ENTRY.size or _HEADER.unpack_from(value) != (_VERSION,):
        return None
    acl = [_Entry(tag, rights) for tag, rights, _ in _ENTRY.iter_unpack(value[_HEADER.size :])]
    return acl if all(tag in _TAGS and rights <= _ALL for tag, rights in acl) else None


def _from_text(value: bytes) -> list[_Entry] | None:
    acl = []
    for line in re.split(rb"[,\n]", value):
        text = line.partition(b"#")[0].strip()  # GNU tar notes there what a mask leaves
        if not text:
            continue
        found = _TEXT.match(text)
        if found is None:
            return None
        acl.append(_Entry(_tag(found), _rights(found["rights"])))
    return acl


def _tag(found: re.Match[bytes]) -> int:
    if found["rest"]:
        return _MASK if found["rest"].startswith(b"m") else _OTHER
    if found["who"].startswith(b"u"):
        return _USER if found["name"] else _USER_OBJ
    return _GROUP if found["name"] else _GROUP_OBJ


def _rights(text: bytes) -> int:
    """`r-x` to 5."""
    return sum(bit for bit, letter in zip((4, 2, 1), text, strict=True) if letter != ord("-"))
