"""Keep uploaded content, once for equal bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from contree.app.access import Caller
from contree.app.clock import Clock
from contree.app.content.project_content import ProjectContent
from contree.app.event_log import EventLog
from contree.app.limits import Limits
from contree.app.reads import FileReads, FileRow
from contree.app.retries import retry_conflicts
from contree.domain.errors import NotFoundError
from contree.domain.file import File, file_id_of
from contree.domain.token import Permission


class UploadFile:
    def __init__(
        self,
        *,
        log: EventLog,
        files: FileReads,
        content: ProjectContent,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._log = log
        self._files = files
        self._content = content
        self._clock = clock
        self._limits = limits

    async def upload(self, caller: Caller, chunks: AsyncIterator[bytes]) -> FileRow:
        """Store the concatenation of `chunks`; equal content gives the same file.

        Raises PermissionMissingError, LimitExceededError, StorageFullError, and whatever `chunks`
        raises; nothing is kept then.
        """
        if Permission.SPAWN_DISPOSABLE.value not in caller.token.permissions:
            caller.require(Permission.SPAWN)
        content = await self._content.put(
            caller.project_id, chunks, bytes_max=self._limits.upload_bytes_max
        )

        async def attempt() -> None:
            context = caller.context(self._clock.now())
            file = await self._log.load(File, file_id_of(caller.project_id, content.sha256))
            if file is None:
                file = File.upload(context, sha256=content.sha256, size_bytes=content.size_bytes)
            else:
                file.upload_again(context)
            await self._log.append(file)

        await retry_conflicts(attempt)
        row = await self._files.by_sha256(caller.project_id, content.sha256)
        if row is None:
            raise NotFoundError("file", content.sha256)
        return row
