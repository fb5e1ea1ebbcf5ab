"""Changes of an image as a patch that `git apply` takes (gitdiffcore, git-diff(1)). Pure.

Of what Git does not know (git_names) nothing is in it. Text is compared line by line; a binary or
over-large file says so with the digests of both sides, which `git apply` refuses, or is there as a
Git binary patch.
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b85encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Final

from contree.app.images.git_names import git_mode, quoted, raw_name
from contree.app.images.image_comparison import ChangeKind, ImageChange
from contree.app.images.layer_comparison import LayerEntry
from contree.app.images.layer_store import EntryType
from contree.domain.line_edits import Edit, line_edits, lines_of

TEXT_BYTES_MAX: Final = 1024**2
"""Of either side, to be compared line by line."""

BINARY_BYTES_MAX: Final = 16 * 1024**2
"""Of either side, to be in a binary patch."""

_CONTEXT_LINES: Final = 3
_SNIFFED_BYTES: Final = 8000
"""A NUL byte among these makes a file binary, as in Git."""

_NO_BLOB: Final = "0" * 40
_LENGTHS: Final = ascii_uppercase + ascii_lowercase
"""How a line of a binary patch begins that has 1 byte, 2 bytes, and so on."""

_LINE_BYTES: Final = len(_LENGTHS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSide:
    """A file on one side of a patch; `content` None: it was not read, being too large."""

    entry: LayerEntry
    mode: str
    content: bytes | None

    @property
    def blob_id(self) -> str:
        assert self.content is not None
        head = b"blob %d\0" % len(self.content)
        return hashlib.sha1(head + self.content, usedforsecurity=False).hexdigest()


def wanted_bytes(change: ImageChange, *, binary: bool) -> int:
    """Return up to which size each side is needed to be read for `patch_of`; -1: not at all."""
    modes = git_mode(change.before), git_mode(change.after)
    is_seen = modes[0] != modes[1] or (modes[0] is not None and change.content_changed)
    if not is_seen or change.kind is ChangeKind.RENAMED or not _needs_content(change):
        return -1
    bound = BINARY_BYTES_MAX if binary else TEXT_BYTES_MAX
    sizes = [side.size_bytes for side in (change.before, change.after) if side is not None]
    return bound if max(sizes) <= bound else -1


def patch_of(
    change: ImageChange, before: bytes | None, after: bytes | None, *, binary: bool
) -> Iterator[bytes]:
    """Yield the part of a patch that makes this change; nothing for what Git does not know.

    `before` and `after` are the contents of regular files, as far as `wanted_bytes` wants them.
    """
    old, new = _side(change.before, before), _side(change.after, after)
    names = raw_name(change.from_path or change.path), raw_name(change.path)
    if old is not None and new is not None and (old.mode == "120000") != (new.mode == "120000"):
        yield from _part(names, old, None, binary=binary)
        yield from _part(names, None, new, binary=binary)
    elif old is not None or new is not None:
        changed = change.content_changed
        yield from _part(names, old, new, binary=binary, changed=changed)


def _needs_content(change: ImageChange) -> bool:
    return change.content_changed and any(
        side is not None and side.type is EntryType.REGULAR
        for side in (change.before, change.after)
    )


def _side(entry: LayerEntry | None, content: bytes | None) -> PatchSide | None:
    mode = git_mode(entry)
    if entry is None or mode is None:
        return None
    if entry.type is EntryType.SYMLINK:
        content = entry.symlink_to.encode("utf-8", "surrogateescape")
    return PatchSide(entry=entry, mode=mode, content=content)


def _part(
    names: tuple[bytes, bytes],
    old: PatchSide | None,
    new: PatchSide | None,
    *,
    binary: bool,
    changed: bool = True,
) -> Iterator[bytes]:
    head = _mode_lines(old, new)
    if names[0] != names[1]:
        head += [b"similarity index 100%"]
        head += [b"rename from " + quoted(names[0]), b"rename to " + quoted(names[1])]
    if not head and not changed:
        return
    labels = quoted(b"a/" + names[0]), quoted(b"b/" + names[1])
    yield b"\n".join([b"diff --git " + labels[0] + b" " + labels[1], *head, b""])
    if changed:
        yield from _body(labels, old, new, binary=binary)


def _mode_lines(old: PatchSide | None, new: PatchSide | None) -> list[bytes]:
    if old is None:
        assert new is not None
        return [f"new file mode {new.mode}".encode()]
    if new is None:
        return [f"deleted file mode {old.mode}".encode()]
    if old.mode == new.mode:
        return []
    return [f"old mode {old.mode}".encode(), f"new mode {new.mode}".encode()]


def _body(
    labels: tuple[bytes, bytes], old: PatchSide | None, new: PatchSide | None, *, binary: bool
) -> Iterator[bytes]:
    sides = [side for side in (old, new) if side is not None]
    contents = [side.content for side in sides if side.content is not None]
    is_read = len(contents) == len(sides)
    if is_read:
        ids = [_NO_BLOB if side is None else side.blob_id for side in (old, new)]
        is_same_mode = old is not None and new is not None and old.mode == new.mode
        mode = f" {sides[0].mode}" if is_same_mode else ""
        yield f"index {ids[0]}..{ids[1]}{mode}\n".encode()
    before = b"" if old is None else old.content or b""
    after = b"" if new is None else new.content or b""
    if is_read and all(is_text(content) for content in contents):
        if before != after:
            names = [_label(labels[0], old), _label(labels[1], new)]
            yield b"--- " + names[0] + b"\n+++ " + names[1] + b"\n"
            yield from _hunks(before, after)
    elif is_read and binary:
        yield b"GIT binary patch\n"
        yield from _literal(after)
        yield from _literal(before)
    else:
        shown = [b"/dev/null" if s is None else n for s, n in ((old, labels[0]), (new, labels[1]))]
        yield b"Binary files " + shown[0] + b" and " + shown[1] + b" differ\n"
        digests = " ".join(_digest(side) for side in (old, new))
        yield f"sha256 {digests}\n".encode()


def _label(name: bytes, side: PatchSide | None) -> bytes:
    if side is None:
        return b"/dev/null"
    return name + (b"\t" if b" " in name else b"")


def is_text(content: bytes) -> bool:
    """Say whether Git would take it for text, and it is small enough to be compared by lines."""
    return len(content) <= TEXT_BYTES_MAX and b"\0" not in content[:_SNIFFED_BYTES]


def _digest(side: PatchSide | None) -> str:
    """The digest of a file with holes is of another kind, so it is marked."""
    if side is None:
        return "-"
    return f"{'sparse:' if side.entry.sparse else ''}{side.entry.sha256 or '-'}"


def _literal(content: bytes) -> Iterator[bytes]:
    """Yield one direction of a Git binary patch."""
    yield b"literal %d\n" % len(content)
    packed = zlib.compress(content)
    for at in range(0, len(packed), _LINE_BYTES):
        piece = packed[at : at + _LINE_BYTES]
        yield _LENGTHS[len(piece) - 1].encode() + b85encode(piece, pad=True) + b"\n"
    yield b"\n"


def _hunks(before: bytes, after: bytes) -> Iterator[bytes]:
    one, other = lines_of(before), lines_of(after)
    for edits in _grouped(line_edits(one, other)):
        first, last = edits[0], edits[-1]
        lead = min(_CONTEXT_LINES, first.before_start)
        trail = min(_CONTEXT_LINES, len(one) - last.before_end)
        spans = (
            (first.before_start - lead, last.before_end + trail),
            (first.after_start - lead, last.after_end + trail),
        )
        yield f"@@ -{_span(*spans[0])} +{_span(*spans[1])} @@\n".encode()
        at = spans[0][0]
        for edit in edits:
            yield from _lines(b" ", one[at : edit.before_start])
            yield from _lines(b"-", one[edit.before_start : edit.before_end])
            yield from _lines(b"+", other[edit.after_start : edit.after_end])
            at = edit.before_end
        yield from _lines(b" ", one[at : spans[0][1]])


def _grouped(edits: Sequence[Edit]) -> Iterator[list[Edit]]:
    """Yield edits that are near enough to share their context."""
    group: list[Edit] = []
    for edit in edits:
        if group and edit.before_start - group[-1].before_end > 2 * _CONTEXT_LINES:
            yield group
            group = []
        group.append(edit)
    if group:
        yield group


def _span(start: int, end: int) -> str:
    """As `@@` has it: the first line counts from 1, of no lines it is the one before."""
    if end - start == 1:
        return f"{start + 1}"
    return f"{start if start == end else start + 1},{end - start}"


def _lines(mark: bytes, lines: Sequence[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield mark + line
        if not line.endswith(b"\n"):
            yield b"\n\\ No newline at end of file\n"
