"""Names and modes as Git writes them. Pure.

Git knows regular files, whether their owner may execute them, and symbolic links; directories only
by what is in them; no owners, no other modes, no extended attributes, no devices.
"""

from __future__ import annotations

from typing import Final

from contree.app.images.image_comparison import ChangeKind, ImageChange
from contree.app.images.layer_comparison import LayerEntry
from contree.app.images.layer_store import EntryType

FILE: Final = "100644"
EXECUTABLE: Final = "100755"
SYMLINK: Final = "120000"

_ESCAPES: Final = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}
_PLAIN: Final = range(32, 127)
_OWNER_EXECUTES: Final = 0o100


def git_mode(entry: LayerEntry | None) -> str | None:
    """Return the mode that Git records; None for what it does not record."""
    if entry is None:
        return None
    if entry.type is EntryType.REGULAR:
        return EXECUTABLE if entry.mode & _OWNER_EXECUTES else FILE
    return SYMLINK if entry.type is EntryType.SYMLINK else None


def git_status(change: ImageChange) -> str | None:
    """Return the letter of `git diff --name-status`; None for what Git does not see."""
    before, after = git_mode(change.before), git_mode(change.after)
    if before is None or after is None:
        if before is after:
            return None
        return "A" if before is None else "D"
    if change.kind is ChangeKind.RENAMED:
        return "R100"
    if change.kind is ChangeKind.TYPE:
        return "T"
    return "M" if change.content_changed or before != after else None


def raw_name(path: str) -> bytes:
    """Return the path from the root, without a slash before it."""
    return path.lstrip("/").encode("utf-8", "surrogateescape")


def quoted(name: bytes) -> bytes:
    """Return the name as Git shows it: within quotes when bytes in it are not plain ASCII."""
    escaped = "".join(map(_escaped, name)).encode()
    return name if escaped == name else b'"' + escaped + b'"'


def _escaped(byte: int) -> str:
    if byte in _ESCAPES:
        return f"\\{_ESCAPES[byte]}"
    return chr(byte) if byte in _PLAIN else f"\\{byte:03o}"


def name_status(change: ImageChange, *, nul: bool) -> bytes:
    """Return the change as `git diff --name-status` (with `nul`, `-z`) has it; often nothing."""
    status = git_status(change)
    if status is None:
        return b""
    names = [raw_name(path) for path in (change.from_path, change.path) if path is not None]
    if nul:
        return b"".join(part + b"\0" for part in (status.encode(), *names))
    return b"\t".join((status.encode(), *map(quoted, names))) + b"\n"
