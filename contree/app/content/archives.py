"""Archives that clients upload, as the use cases see them: entries, read in bounded memory.

Implemented by adapters.layers.unpacking. What is in an archive anybody may have made: it is refused
or passed on as an entry, and never touches the host's file system.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from contree.app.guest.microvm import FileKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveEntry:
    """One entry; the bytes of a file follow it in pieces, `size_bytes` of them.

    path     plain and relative; empty for the directory into which the archive is unpacked
    uid,gid  None where the archive does not say
    mtime_s  seconds since 1970 UTC, likewise
    target   a symbolic link's text; a hard link's path in the archive
    """

    path: bytes
    kind: FileKind
    mode: int
    uid: int | None = None
    gid: int | None = None
    mtime_s: int | None = None
    size_bytes: int = 0
    target: bytes = b""


class Archives(Protocol):
    """tar, tar.gz, tar.zst and zip; the first bytes say which."""

    def entries(
        self, content: AsyncIterator[bytes], *, bytes_max: int
    ) -> AsyncGenerator[ArchiveEntry | bytes, None]:
        """Yield the entries in the archive's order.

        Raises LayerRefused for what is damaged, has a `..`, a device or another thing that is
        neither file, directory nor link, unpacks to more than `bytes_max`, or has too many
        entries; StorageFullError; and what `content` raises.
        """
        ...
