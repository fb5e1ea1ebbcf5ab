"""One file into a guest, for tests that need no more."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from contree.app.guest.microvm import Guest, GuestFile


async def put_file(
    guest: Guest,
    path: str,
    content: AsyncIterator[bytes],
    *,
    size_bytes: int,
    uid: int = 0,
    gid: int = 0,
    mode: int = 0o644,
) -> None:
    """Put a file of `size_bytes` in place. Raises as `Guest.put_files`."""

    async def items() -> AsyncIterator[GuestFile | bytes]:
        yield GuestFile(
            path=os.fsencode(path),
            name=f"file {path}",
            uid=uid,
            gid=gid,
            mode=mode,
            size_bytes=size_bytes,
        )
        async for piece in content:
            yield piece

    await guest.put_files(items())
