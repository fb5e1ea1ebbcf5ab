"""Random layers: members over a few names, so that layers hit each other and themselves."""

from __future__ import annotations

import tarfile
from dataclasses import replace

from hypothesis import strategies as st

from tests.support import layer_tars as tars
from tests.support.layer_tars import Member

NAMES = st.sampled_from(["a", "b", "caf\udce9", "z z"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
MODES = st.sampled_from([0o644, 0o4711, 0o1777, 0])
IDS = st.sampled_from([0, 7, 70_000, 3_000_000_000])
TIMES = st.sampled_from([0, 1, 12345, 2**31])
DATA = st.sampled_from([b"", b"x", b"y" * 513])
XATTRS = st.sampled_from([{}, {"user.k": "v"}, {"user.k": "\udcff\n=", "security.a": "1"}])


def _plain(kind: bytes) -> st.SearchStrategy[Member]:
    return st.builds(
        Member,
        name=PATHS,
        type=st.just(kind),
        data=DATA if kind == tarfile.REGTYPE else st.just(b""),
        mode=st.just(0o777) if kind == tarfile.SYMTYPE else MODES,
        uid=IDS,
        gid=IDS,
        mtime=TIMES,
        link=st.sampled_from(["a", "../b", "/a/b"]) if kind == tarfile.SYMTYPE else st.just(""),
        device=st.just((5, 300)) if kind == tarfile.CHRTYPE else st.just((0, 0)),
        xattrs=XATTRS,
    )


KINDS = [tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]
PLAIN = st.one_of([_plain(kind) for kind in [*KINDS, tarfile.CHRTYPE, tarfile.FIFOTYPE]])


@st.composite
def trees(draw: st.DrawFn) -> list[Member]:
    """Members that may stand together: none twice, parents are directories or are left out."""
    kept: dict[str, Member] = {}
    for member in draw(st.lists(PLAIN, max_size=8)):
        parts = member.name.split("/")
        parents = ["/".join(parts[:end]) for end in range(1, len(parts))]
        below = any(name.startswith(member.name + "/") for name in kept)
        fits = all(
            kept.get(name, member).type in (tarfile.DIRTYPE, member.type) for name in parents
        )
        blocked = any(name in kept and kept[name].type != tarfile.DIRTYPE for name in parents)
        if member.name in kept or blocked or not fits:
            continue
        if below and member.type != tarfile.DIRTYPE:
            continue
        kept[member.name] = member
    files = [one.name for one in kept.values() if one.type == tarfile.REGTYPE]
    link = draw(PATHS)
    free = link not in kept and not any(name.startswith(link + "/") for name in kept)
    parts = link.split("/")
    parents = ["/".join(parts[:end]) for end in range(1, len(parts))]
    if files and free and all(kept.get(n, tars.root()).type == tarfile.DIRTYPE for n in parents):
        kept[link] = tars.hard_link(link, draw(st.sampled_from(files)))
    return list(kept.values())


@st.composite
def oci_layers(draw: st.DrawFn) -> list[Member]:
    """What a registry may hand out: implied directories, whiteouts, opaque markers."""
    members = draw(trees())
    taken = {member.name for member in members}
    hidden = draw(st.lists(PATHS, max_size=3))
    markers = []
    for path in hidden:
        parent, _, name = path.rpartition("/")
        blocked = any(one.name == parent and one.type != tarfile.DIRTYPE for one in members)
        implied = any(other.startswith(path + "/") for other in taken)
        above = [path[:at] for at, char in enumerate(path) if char == "/"]
        shut = any(one.name in above and one.type != tarfile.DIRTYPE for one in members)
        if path in taken or blocked or implied or shut:
            continue
        prefix = f"{parent}/" if parent else ""
        markers.append(tars.file(prefix + ".wh." + name))
        taken.add(path)
    opaque = draw(
        st.none() | st.sampled_from([m for m in members if m.type == tarfile.DIRTYPE] or [None])
    )
    if opaque is not None:
        markers.append(tars.file(opaque.name + "/.wh..wh..opq"))
    return [*markers, *members] if draw(st.booleans()) else [*members, *markers]


@st.composite
def guest_streams(draw: st.DrawFn) -> list[Member]:
    """What a guest may send: its root, then everything in order, parents always there."""
    members = {member.name: member for member in draw(trees()) if member.type != tarfile.LNKTYPE}
    for name in list(members):
        parts = name.split("/")
        for end in range(1, len(parts)):
            members.setdefault("/".join(parts[:end]), tars.directory("/".join(parts[:end])))
    for path in draw(st.lists(PATHS, max_size=3)):
        parent = path.rpartition("/")[0]
        if path not in members and (not parent or _is_directory(members.get(parent))):
            members[path] = tars.whiteout(path)
    if draw(st.booleans()):
        members = {
            name: replace(one, xattrs={**one.xattrs, tars.OPAQUE_XATTR: "y"})
            if one.type == tarfile.DIRTYPE
            else one
            for name, one in members.items()
        }
    ordered = sorted(members.values(), key=lambda one: _raw(one.name).replace(b"/", b"\0"))
    return [tars.root(mode=0o755), *_linked(ordered, draw)]


def _linked(ordered: list[Member], draw: st.DrawFn) -> list[Member]:
    """Make one regular file a further name of an earlier one."""
    files = [n for n, one in enumerate(ordered) if one.type == tarfile.REGTYPE]
    if len(files) > 1 and draw(st.booleans()):
        first, second = ordered[files[0]], ordered[files[1]]
        ordered[files[1]] = tars.hard_link(second.name, first.name)
    return ordered


def _is_directory(member: Member | None) -> bool:
    return member is not None and member.type == tarfile.DIRTYPE


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
