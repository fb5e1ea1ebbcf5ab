"""Built on how acl(5) says that access is decided: nobody may gain by an ACL that is left out."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.layers.tar.reader import Rules, TarReader
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
TAGS = {"user": (1, 2), "group": (4, 8), "mask": (0x10, 0x10), "other": (0x20, 0x20)}
NOBODYS_ID = 2**32 - 1
OWNER, GROUP = 10, 20
NAMES = (10, 11, 12)
GROUPS = (20, 21, 22)
RIGHTS = st.integers(0, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acl:
    """An ACL as the kernel lets a file have it: with named ones there is a mask."""

    owner: int
    group: int
    other: int
    users: dict[int, int]
    groups: dict[int, int]
    mask: int

    @property
    def mode(self) -> int:
        """As stat(2) shows it: the group's bits are the mask."""
        return self.owner << 6 | self.mask << 3 | self.other

    def entries(self) -> list[tuple[str, int | None, int]]:
        return [
            ("user", None, self.owner),
            *(("user", name, rights) for name, rights in self.users.items()),
            ("group", None, self.group),
            *(("group", name, rights) for name, rights in self.groups.items()),
            ("mask", None, self.mask),
            ("other", None, self.other),
        ]

    def allows(self, uid: int, gids: frozenset[int], wanted: int) -> bool:
        """The algorithm of acl(5), "Access check algorithm"."""
        if uid == OWNER:
            return wanted & ~self.owner == 0
        if uid in self.users:
            return wanted & ~(self.users[uid] & self.mask) == 0
        matching = [rights for gid, rights in self.groups.items() if gid in gids]
        if GROUP in gids:
            matching.append(self.group)
        if matching:
            return any(wanted & ~(rights & self.mask) == 0 for rights in matching)
        return wanted & ~self.other == 0


ACLS = st.builds(
    Acl,
    owner=RIGHTS,
    group=RIGHTS,
    other=RIGHTS,
    users=st.dictionaries(st.sampled_from(NAMES), RIGHTS, max_size=3),
    groups=st.dictionaries(st.sampled_from(GROUPS), RIGHTS, max_size=3),
    mask=RIGHTS,
)


def mode_allows(mode: int, uid: int, gids: frozenset[int], wanted: int) -> bool:
    shift = 6 if uid == OWNER else 3 if GROUP in gids else 0
    return wanted & ~(mode >> shift & 7) == 0


def as_bytes(*entries: tuple[str, int | None, int]) -> str:
    """The kernel's form, as text that `tarfile` writes byte for byte."""
    packed = struct.pack("<I", 2) + b"".join(
        struct.pack(
            "<HHI", TAGS[tag][name is not None], rights, NOBODYS_ID if name is None else name
        )
        for tag, name, rights in entries
    )
    return packed.decode("utf-8", "surrogateescape")


def as_text(*entries: tuple[str, int | None, int]) -> str:
    return ",".join(
        f"{tag}:{'' if name is None else f'u{name}'}:"
        + "".join(letter if rights & bit else "-" for bit, letter in ((4, "r"), (2, "w"), (1, "x")))
        + ("" if name is None else f":{name}")
        for tag, name, rights in entries
    )


def read(member: tars.Member, rules: Rules = Rules.IMPORT) -> tuple[int, tuple[bytes, ...]]:
    """The mode and the names of the attributes that the reader shows."""
    tar = tars.guest_bytes([member])
    (entry,) = TarReader(io.BytesIO(tar), rules)
    return entry.mode, tuple(name for name, _ in entry.xattrs)


SUBJECTS = [
    (uid, frozenset(gids))
    for uid in (*NAMES, 99)
    for size in range(len(GROUPS) + 1)
    for gids in combinations(GROUPS, size)
]


@given(acl=ACLS)
def test_nobody_may_do_without_an_acl_what_it_kept_them_from(acl: Acl) -> None:
    kernels = read(file("f", mode=acl.mode, xattrs={ACCESS: as_bytes(*acl.entries())}), Rules.GUEST)
    archivers = read(file("f", mode=acl.mode, pax={"SCHILY.acl.access": as_text(*acl.entries())}))
    assert kernels == archivers
    mode, xattrs = kernels
    assert xattrs == ()
    for uid, gids in SUBJECTS:
        for wanted in range(1, 8):
            if mode_allows(mode, uid, gids, wanted):
                assert acl.allows(uid, gids, wanted), (uid, gids, wanted)


@given(acl=ACLS)
def test_the_owner_loses_nothing_nor_do_others_whom_no_entry_names(acl: Acl) -> None:
    plain = Acl(
        owner=acl.owner, group=acl.group, other=acl.other, users={}, groups={}, mask=acl.group
    )
    entries = [entry for entry in plain.entries() if entry[0] != "mask"]
    mode, _ = read(file("f", mode=plain.mode | 0o6000, xattrs={ACCESS: as_bytes(*entries)}))
    assert mode == plain.mode | 0o6000
    mode, _ = read(file("f", mode=acl.mode, xattrs={ACCESS: as_bytes(*acl.entries())}))
    assert mode >> 6 == acl.owner


NAMED = [("user", None, 6), ("user", 1000, 6), ("group", None, 0), ("mask", None, 6)]
WIDE = [("user", None, 7), ("group", None, 5), ("group", 4, 5), ("mask", None, 5)]
NOBODY = ("other", None, 0)


@pytest.mark.parametrize(
    ("acl", "shown", "left"),
    [
        ([*NAMED, NOBODY], 0o660, 0o600),
        ([*WIDE, ("other", None, 5)], 0o755, 0o755),
        ([("user", None, 7), ("user", 5, 0), *WIDE[1:], ("other", None, 5)], 0o755, 0o700),
    ],
)
def test_the_usual_ones(acl: list[tuple[str, int | None, int]], shown: int, left: int) -> None:
    assert read(file("f", mode=shown, xattrs={ACCESS: as_bytes(*acl)})) == (left, ())


@pytest.mark.parametrize(
    "text",
    [
        "u::rw-,u:lisa:rw-,g::---,m::rw-,o::---",
        "user::rw-\nuser:lisa:rw-\t#effective:rw-\ngroup::---\nmask::rw-\nother::---\n",
        "user::rw-,user:lisa:rw-:1000,group::---,mask:rw-,other:---",
    ],
)
def test_the_text_of_each_archiver_is_read(text: str) -> None:
    assert read(file("f", mode=0o664, pax={"SCHILY.acl.access": text})) == (0o600, ())


WHOLE = as_bytes(*NAMED, NOBODY)


@pytest.mark.parametrize(
    "value",
    [
        "",
        WHOLE[:3],
        WHOLE[:-1],
        "\x01" + WHOLE[1:],
        as_bytes(),
        as_bytes(*NAMED),
        as_bytes(*NAMED[:3], NOBODY),
        as_bytes(*NAMED, NOBODY, NOBODY),
        as_bytes(*NAMED[1:], NOBODY),
        as_bytes(*NAMED[:3], ("mask", None, 8), NOBODY),
        WHOLE + struct.pack("<HHI", 0x40, 7, 0).decode(),
    ],
)
def test_an_acl_that_makes_no_sense_leaves_the_owner_alone(value: str) -> None:
    assert read(file("f", mode=0o6777, xattrs={ACCESS: value})) == (0o6700, ())


@pytest.mark.parametrize(
    "text", ["", "x", "user::rwx,group::rwx", "user:rwx,group::rwx,other::rwx"]
)
def test_so_does_a_text_that_makes_none(text: str) -> None:
    assert read(file("f", mode=0o777, pax={"SCHILY.acl.access": text})) == (0o700, ())


def test_other_attributes_stay_and_symbolic_links_have_no_rights_to_lose() -> None:
    xattrs = {ACCESS: WHOLE, DEFAULT: WHOLE, "user.a": "b", "trusted.t": "c"}
    assert read(file("f", mode=0o664, xattrs=xattrs)) == (0o600, (b"trusted.t", b"user.a"))
    assert read(directory("d", mode=0o775, xattrs={DEFAULT: WHOLE})) == (0o775, ())
    assert read(tars.symlink("s", "t", xattrs={ACCESS: WHOLE})) == (0o777, ())
