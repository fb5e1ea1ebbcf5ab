"""Journals whose data is sealed under the key of the operation's project (app.journal.Journal).

Numbers, times, types and processes stay readable where the journal lies; what was written, run and
shown does not. Entries from before there were keys are read as they are. A key for each operation
is derived from the project's, so that no key ever seals too many entries.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol
from uuid import UUID

import orjson

from contree.app.content.project_keys import Box, ProjectKeys
from contree.app.journal import Journal, JournalEntry, NumberedEntry
from contree.domain.errors import NotFoundError

SEALED_KEY: Final = "sealed"
"""The one key of an entry's data as it is stored."""

_REMEMBERED_MAX: Final = 4096


class OperationProjects(Protocol):
    """Tells whose an operation is."""

    async def project_of(self, operation_id: UUID) -> UUID | None: ...


class ProjectJournal:
    """Implements Journal over another one. Also raises ContentErasedError, NotFoundError (append to
    an operation that is not known) and ContentDamagedError.
    """

    def __init__(
        self, journal: Journal, *, keys: ProjectKeys, operations: OperationProjects
    ) -> None:
        self._journal = journal
        self._keys = keys
        self._operations = operations
        self._projects: OrderedDict[UUID, UUID] = OrderedDict()

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        if not entries:
            return
        box = await self._box(operation_id)
        await self._journal.append(
            operation_id, [replace(entry, data=_sealed(box, entry.data)) for entry in entries]
        )

    async def read(
        self, operation_id: UUID, *, after: int = -1, limit: int = 1000, spid: int | None = None
    ) -> Sequence[NumberedEntry]:
        found = await self._journal.read(operation_id, after=after, limit=limit, spid=spid)
        if not any(_is_sealed(one.entry.data) for one in found):
            return found
        box = await self._box(operation_id)
        return [replace(one, entry=_opened(box, one.entry)) for one in found]

    async def next_number(self, operation_id: UUID) -> int:
        return await self._journal.next_number(operation_id)

    async def forget(self, operation_ids: Sequence[UUID]) -> int:
        return await self._journal.forget(operation_ids)

    async def restart(self, operation_id: UUID) -> int:
        return await self._journal.restart(operation_id)

    async def _box(self, operation_id: UUID) -> Box:
        project_id = self._projects.get(operation_id)
        if project_id is None:
            project_id = await self._operations.project_of(operation_id)
            if project_id is None:
                raise NotFoundError("operation", operation_id)
            self._projects[operation_id] = project_id
            if len(self._projects) > _REMEMBERED_MAX:
                self._projects.popitem(last=False)
        return (await self._keys.cipher(project_id)).box(f"journal {operation_id}")


def _is_sealed(data: Mapping[str, Any]) -> bool:
    return data.keys() == {SEALED_KEY}


def _sealed(box: Box, data: Mapping[str, Any]) -> dict[str, str]:
    return {SEALED_KEY: b64encode(box.seal(orjson.dumps(dict(data)))).decode()}


def _opened(box: Box, entry: JournalEntry) -> JournalEntry:
    if not _is_sealed(entry.data):
        return entry
    return replace(entry, data=orjson.loads(box.open(b64decode(entry.data[SEALED_KEY]))))
