"""Trees in a dict, and layers as steps that change them: what `FakeLayers` is made of."""

from __future__ import annotations

import gzip
import hashlib
import io
import posixpath
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import zstandard

from contree.app.images.image_comparison import ChangeKind, ImageChange
from contree.app.images.layer_comparison import LayerEntry
from contree.app.images.layer_store import EntryType, FileEntry
from contree.domain.errors import LayerRefused, NotFoundError

LINKS_MAX = 40
_TYPES = {
    tarfile.DIRTYPE: EntryType.DIRECTORY,
    tarfile.REGTYPE: EntryType.REGULAR,
    tarfile.SYMTYPE: EntryType.SYMLINK,
    tarfile.CHRTYPE: EntryType.CHARACTER_DEVICE,
    tarfile.BLKTYPE: EntryType.BLOCK_DEVICE,
    tarfile.FIFOTYPE: EntryType.FIFO,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeFile:
    """A file; names of one file share `ino`."""

    type: EntryType
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    data: bytes = b""
    symlink_to: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    ino: object = None


ROOT = FakeFile(type=EntryType.DIRECTORY, mode=0o755)
Tree = dict[str, FakeFile]
"""Absolute path to file; always has `/`."""


@dataclass(slots=True)
class Change:
    """One step of a layer, in order: remove what lower layers have, or put a file."""

    path: str
    file: FakeFile | None = None
    opaque: bool = False


def raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def inflated(blob: bytes) -> bytes:
    try:
        if blob.startswith(b"\x1f\x8b"):
            return gzip.decompress(blob)
        if blob.startswith(zstandard.FRAME_HEADER):
            return zstandard.ZstdDecompressor().decompressobj().decompress(blob)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise LayerRefused(f"damaged: {error}") from error
    return blob


def _members(tar: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), errorlevel=2) as archive:
            found = []
            for info in archive:
                body = archive.extractfile(info) if info.isreg() else None
                found.append((info, body.read() if body else b""))
                if ".." in info.name.split("/"):
                    raise LayerRefused(f"name '{info.name}'")
            return found
    except (tarfile.TarError, EOFError, ValueError, UnicodeError) as error:
        raise LayerRefused(f"damaged: {error}") from error


def _path(name: str) -> str:
    return "/" + posixpath.normpath("/" + name).lstrip("/")


def _file_of(info: tarfile.TarInfo, data: bytes) -> FakeFile:
    prefix = "SCHILY.xattr."
    left_out = (f"{prefix}trusted.overlay.", f"{prefix}system.posix_acl_")
    xattrs = {
        key.removeprefix(prefix): raw(value)
        for key, value in info.pax_headers.items()
        if key.startswith(prefix) and not key.startswith(left_out)
    }
    has_acl = {f"{prefix}system.posix_acl_access", "SCHILY.acl.access"} & info.pax_headers.keys()
    if info.type not in _TYPES:
        raise LayerRefused(f"entry type {info.type!r} is not supported")
    return FakeFile(
        type=_TYPES[info.type],
        mode=info.mode & (0o7700 if has_acl else 0o7777),  # as little as any ACL may leave
        uid=info.uid,
        gid=info.gid,
        mtime_s=int(info.mtime),
        data=data,
        symlink_to=info.linkname if info.issym() else "",
        device=(info.devmajor, info.devminor) if info.isdev() else (0, 0),
        xattrs=xattrs,
        ino=object(),
    )


def _put(changes: list[Change], info: tarfile.TarInfo, data: bytes, *, opaque: bool) -> None:
    path = _path(info.name)
    if not info.islnk():
        changes.append(Change(path, _file_of(info, data), opaque))
        return
    target = _path(info.linkname)
    known = [one.file for one in changes if one.path == target and one.file is not None]
    if not known or known[-1].type is EntryType.DIRECTORY:
        raise LayerRefused(f"'{info.name}' is a hard link to nothing")
    changes.append(Change(path, known[-1]))


def oci_changes(tar: bytes) -> list[Change]:
    """Whiteouts first: they hide lower layers only, wherever they stand in the tar."""
    hidden: list[Change] = []
    put: list[Change] = []
    for info, data in _members(tar):
        parent, name = posixpath.split(_path(info.name))
        if name == ".wh..wh..opq":
            hidden.append(Change(parent, opaque=True))
            put.append(Change(parent, replace(ROOT, mtime_s=0, ino="implied")))
        elif name.startswith(".wh."):
            hidden.append(Change(posixpath.join(parent, name[4:])))
        elif info.ischr() and (info.devmajor, info.devminor) == (0, 0):
            raise LayerRefused("character device 0:0")
        else:
            _put(put, info, data, opaque=False)
    return hidden + put


def guest_changes(tar: bytes) -> list[Change]:
    members = _members(tar)
    if not members or _path(members[0][0].name) != "/" or not tar.endswith(bytes(1024)):
        raise LayerRefused("the stream does not begin with its root or is cut off")
    changes: list[Change] = []
    for info, data in members:
        path = _path(info.name)
        if "" in info.name.split("/") and info.name:
            raise LayerRefused(f"name '{info.name}'")
        if posixpath.basename(path).startswith(".wh."):
            raise LayerRefused("a layer cannot hold names that begin '.wh.'")
        if any(one.path == path for one in changes):
            raise LayerRefused(f"'{path}' is there twice")
        if info.ischr() and (info.devmajor, info.devminor) == (0, 0):
            changes.append(Change(path))
        else:
            key = "SCHILY.xattr.trusted.overlay.opaque"
            _put(changes, info, data, opaque=info.pax_headers.get(key) == "y")
    return changes


def real_changes(changes: list[Change], before: Tree) -> list[Change]:
    """Leave out files that are as before in all but which other names they have.

    overlayfs breaks hard links when it copies a file up; that by itself is no change.
    """
    linked = [id(one.file) for one in changes]
    kept = []
    for change in changes:
        file, old = change.file, before.get(change.path)
        hidden = any(other.opaque and change.path.startswith(other.path) for other in changes)
        if (
            file is None
            or old is None
            or hidden
            or file.type is EntryType.DIRECTORY
            or linked.count(id(file)) > 1
            or replace(file, ino=None) != replace(old, ino=None)
        ):
            kept.append(change)
    return kept


def applied(tree: Tree, changes: list[Change]) -> Tree:
    tree = dict(tree)
    for change in changes:
        path = change.path
        before = tree.get(path)
        if change.file is None or change.opaque:
            _cut(tree, path, itself=not change.opaque and path != "/")
        if change.file is None:
            _make_parents(tree, path)
            continue
        if change.file.ino == "implied":
            if before is not None and before.type is EntryType.DIRECTORY:
                continue
        elif before is not None and EntryType.DIRECTORY is not change.file.type:
            _cut(tree, path, itself=True)
        _make_parents(tree, path)
        tree[path] = replace(change.file, ino=None) if path == "/" else change.file
    return tree


def _cut(tree: Tree, path: str, *, itself: bool) -> None:
    below = path.rstrip("/") + "/"
    for name in [name for name in tree if name.startswith(below) and name != "/"]:
        del tree[name]
    if itself:
        tree.pop(path, None)


def _make_parents(tree: Tree, path: str) -> None:
    if path == "/":
        return
    parent = posixpath.dirname(path)
    _make_parents(tree, parent)
    if parent not in tree or tree[parent].type is not EntryType.DIRECTORY:
        tree[parent] = replace(ROOT)


def told(tree: Tree, *, directory_times: bool) -> dict[str, str]:
    """Every file in words, hard links included: what makes two trees equal."""
    words = {}
    for path, file in tree.items():
        same = replace(file, ino=None)
        names = sorted(other for other in tree if tree[other] is file)
        links = names if file.ino is not None and len(names) > 1 else []
        if file.type is EntryType.DIRECTORY and not directory_times:
            same = replace(same, mtime_s=0)
        words[path] = repr((same, links))
    return words


def resolved(tree: Tree, path: str, *, follow: bool = True) -> str:
    trail = "/"
    pending = path.split("/")[::-1]
    left = LINKS_MAX
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if trail not in tree or tree[trail].type is not EntryType.DIRECTORY:
            raise NotFoundError("path", path)
        if part == "..":
            trail = posixpath.dirname(trail)
            continue
        step = posixpath.join(trail, part)
        file = tree.get(step)
        if file is None:
            raise NotFoundError("path", path)
        more = any(other not in ("", ".") for other in pending)
        if file.type is EntryType.SYMLINK and (more or follow):
            left -= 1
            if left < 0:
                raise NotFoundError("path", path)
            trail = "/" if file.symlink_to.startswith("/") else trail
            pending += file.symlink_to.split("/")[::-1]
        else:
            trail = step
    return trail


def _names(tree: Tree, path: str) -> dict[int, str]:
    file = tree.get(path)
    lines = file.data.decode("utf-8", "replace").splitlines() if file else []
    found: dict[int, str] = {}
    for line in lines:
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdigit():
            found.setdefault(int(fields[2]), fields[0])
    return found


def entry_of(tree: Tree, path: str) -> FileEntry:
    file = tree[path]
    linked = [1 for other in tree.values() if other is file]
    size = len(file.symlink_to) if file.symlink_to else len(file.data)
    return FileEntry(
        path=path,
        type=file.type,
        mode=file.mode,
        uid=file.uid,
        gid=file.gid,
        owner=_names(tree, "/etc/passwd").get(file.uid, str(file.uid)),
        group=_names(tree, "/etc/group").get(file.gid, str(file.gid)),
        size_bytes=size,
        mtime_s=file.mtime_s,
        nlink=1 if file.type is EntryType.DIRECTORY else len(linked),
        symlink_to=file.symlink_to,
        device=file.device,
        xattrs=dict(file.xattrs),
    )


def archived(tree: Tree, top: str) -> bytes:
    types = {value: key for key, value in _TYPES.items()}
    base = posixpath.basename(top) or "."
    inside = [path for path in tree if path == top or path.startswith(top.rstrip("/") + "/")]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        first: dict[int, str] = {}
        for path in sorted(inside, key=lambda path: raw(path).replace(b"/", b"\0")):
            file = tree[path]
            rest = path[len(top.rstrip("/")) :].rstrip("/")
            info = tarfile.TarInfo(base + rest)
            info.type, info.mode, info.uid, info.gid = (
                types[file.type],
                file.mode,
                file.uid,
                file.gid,
            )
            info.mtime, info.linkname = file.mtime_s, file.symlink_to
            info.devmajor, info.devminor = file.device
            info.pax_headers = {
                f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape")
                for key, value in file.xattrs.items()
            }
            known = first.setdefault(id(file), info.name)
            if known != info.name:
                info.type, info.linkname = tarfile.LNKTYPE, known
            info.size = len(file.data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(file.data) if info.isreg() else None)
    return stream.getvalue()


def layer_entry(change: Change) -> LayerEntry:
    """What a layer says of the path of `change`."""
    if change.file is None:
        return LayerEntry(type=None)
    return replace(_file_entry(change.file), opaque=change.opaque)


def _file_entry(file: FakeFile) -> LayerEntry:
    is_regular = file.type is EntryType.REGULAR
    return LayerEntry(
        type=file.type,
        mode=file.mode,
        uid=file.uid,
        gid=file.gid,
        mtime_s=file.mtime_s,
        size_bytes=len(file.data),
        sha256=hashlib.sha256(file.data).hexdigest() if is_regular else "",
        symlink_to=file.symlink_to,
        device=file.device,
        xattrs=file.xattrs,
    )


def tree_changes(before: Tree, after: Tree, *, times: bool) -> list[ImageChange]:
    """What differs between two trees, path by path."""
    found = []
    for path in sorted(before.keys() | after.keys(), key=raw):
        sides = [None if path not in tree else _file_entry(tree[path]) for tree in (before, after)]
        kind = _kind_of(*sides, times=times)
        if kind is not None:
            found.append(
                ImageChange(
                    path=path,
                    kind=kind,
                    before=sides[0],
                    after=sides[1],
                    content_changed=kind is not ChangeKind.METADATA,
                )
            )
    return found


def _kind_of(one: LayerEntry | None, other: LayerEntry | None, *, times: bool) -> ChangeKind | None:
    if one is None or other is None:
        return ChangeKind.ADDED if one is None else ChangeKind.REMOVED
    if one.type is not other.type:
        return ChangeKind.TYPE
    for name in ("sha256", "symlink_to", "device"):
        if getattr(one, name) != getattr(other, name):
            return ChangeKind.MODIFIED
    for name in ("mode", "uid", "gid", "xattrs", *(["mtime_s"] if times else [])):
        if getattr(one, name) != getattr(other, name):
            return ChangeKind.METADATA
    return None
