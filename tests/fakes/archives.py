"""`app.content.archives.Archives` in memory, by Python's own tarfile: tars that tests make."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator

from contree.app.content.archives import ArchiveEntry
from contree.app.guest.microvm import FileKind
from contree.domain.errors import LayerRefused

KINDS = {
    tarfile.REGTYPE: FileKind.FILE,
    tarfile.DIRTYPE: FileKind.DIRECTORY,
    tarfile.SYMTYPE: FileKind.SYMLINK,
    tarfile.LNKTYPE: FileKind.HARD_LINK,
}


class FakeArchives:
    async def entries(
        self, content: AsyncIterator[bytes], *, bytes_max: int
    ) -> AsyncGenerator[ArchiveEntry | bytes, None]:
        data = b"".join([piece async for piece in content])
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    if member.size > bytes_max:
                        raise LayerRefused(f"it unpacks to more than {bytes_max} bytes")
                    yield ArchiveEntry(
                        path=member.name.encode(),
                        kind=KINDS[member.type],
                        mode=member.mode,
                        uid=member.uid,
                        gid=member.gid,
                        mtime_s=int(member.mtime),
                        size_bytes=member.size,
                        target=member.linkname.encode(),
                    )
                    if (stream := tar.extractfile(member)) is not None and member.isreg():
                        yield stream.read()
        except tarfile.TarError as error:
            raise LayerRefused("it is no archive") from error
