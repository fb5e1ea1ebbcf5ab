"""Which names a layer may use: relative, plain, bounded. Whatever reaches outside is refused.

A name with `..` is how an archive reaches outside of where it is unpacked. Imported names that only
say the same in more words (absolute, `//`, `/./`) count from the root, as Docker and containerd
take them; a guest's stream has one form, so there they are refused too.
"""

from __future__ import annotations

from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import shown
from contree.domain.errors import LayerRefused

WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
"""OCI image-spec layer.md, Whiteouts."""


def imported_path(raw: bytes, what: str) -> tuple[bytes, bool]:
    """Return the plain path that an imported name means, and whether it ended in a slash.

    The root is the empty path. Raises LayerRefused for an empty name and for what reaches outside.
    """
    if not raw:
        raise LayerRefused(f"a {what} is empty")
    path = b"/".join(part for part in raw.split(b"/") if part not in (b"", b"."))
    return plain_path(path, what) if path else b"", raw.endswith((b"/", b"/."))


def member_path(raw: bytes) -> tuple[bytes, bool]:
    """Return the path without leading `./` and trailing slash, and whether there was such a slash.

    The root (`.`, `./`) is the empty path. Raises LayerRefused for any name that a layer may not
    have.
    """
    slash = raw.endswith(b"/")
    path = raw[:-1] if slash else raw
    if path == b".":
        return b"", True
    path = path.removeprefix(b"./")
    return plain_path(path, "name"), slash


def plain_path(path: bytes, what: str) -> bytes:
    """Check a relative path; `what` says in errors what it is."""
    if not path:
        raise LayerRefused(f"a {what} is empty")
    # A whiteout's prefix comes on top of the name that it hides, however long that is.
    extra = len(OPAQUE_NAME) + 1 if b".wh." in path else 0
    if len(path) > bounds.PATH_BYTES_MAX + extra:
        raise LayerRefused(f"{what} '{shown(path)}...' is over {bounds.PATH_BYTES_MAX} bytes")
    if path.startswith(b"/"):
        raise LayerRefused(f"{what} '{shown(path)}' is absolute")
    if b"\0" in path:
        raise LayerRefused(f"{what} '{shown(path)}' has a NUL byte")
    for component in path.split(b"/"):
        if component in (b"", b".", b".."):
            raise LayerRefused(f"{what} '{shown(path)}' has a component '{shown(component)}'")
        extra = len(WHITEOUT_PREFIX) if component.startswith(WHITEOUT_PREFIX) else 0
        if len(component) > bounds.NAME_BYTES_MAX + extra:
            raise LayerRefused(
                f"{what} '{shown(path)}' has a component over {bounds.NAME_BYTES_MAX} bytes"
            )
    return path


def symlink_target(target: bytes, path: bytes) -> bytes:
    """Check what a symbolic link holds: any text, but not empty, not long, no NUL byte."""
    if not target or len(target) > bounds.PATH_BYTES_MAX or b"\0" in target:
        raise LayerRefused(f"symbolic link '{shown(path)}' has an impossible target")
    return target


def order_key(path: bytes) -> bytes:
    """A key that sorts paths depth-first, siblings in byte order: `/` sorts before every byte."""
    return path.replace(b"/", b"\0")
