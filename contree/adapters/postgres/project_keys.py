"""The data keys of projects on PostgreSQL (app.content.project_keys.ProjectKeys).

A cipher is remembered only while this process hears of erasures (NOTIFY, from a trigger on the
table), so none is used after its key was destroyed; without a connection that listens, each use
asks the database. The key itself is destroyed by `coordination`, with the event.
"""

from __future__ import annotations

from collections import OrderedDict
from uuid import UUID

import asyncpg

from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.listener import PostgresListener
from contree.app.content.project_keys import ProjectCipher, ProjectCiphers
from contree.app.sealing import Sealer
from contree.domain.errors import ContentDamagedError, ContentErasedError

CHANNEL = "project_erased"
CIPHERS_KEPT = 1024

FIND = "SELECT wrapped, erased_at FROM public.project_keys WHERE project_id = $1"
ANY = (
    "SELECT project_id, wrapped FROM public.project_keys WHERE wrapped IS NOT NULL "
    "ORDER BY project_id LIMIT 1"
)
KEEP = (
    "INSERT INTO public.project_keys (project_id, wrapped) VALUES ($1, $2) "
    "ON CONFLICT (project_id) DO NOTHING"
)


class PostgresProjectKeys:
    def __init__(
        self,
        pool: asyncpg.Pool,
        listener: PostgresListener,
        *,
        sealer: Sealer,
        ciphers: ProjectCiphers,
    ) -> None:
        self._pool = pool
        self._listener = listener
        self._sealer = sealer
        self._ciphers = ciphers
        self._known: OrderedDict[UUID, ProjectCipher] = OrderedDict()
        self._erased_count = 0

    async def check(self) -> None:
        """Raise OperationFailure when the keys there are were wrapped by another host's key."""
        with translated():
            row = await self._pool.fetchrow(ANY)
        if row is not None:
            self._unwrapped(row["project_id"], row["wrapped"])

    async def cipher(self, project_id: UUID) -> ProjectCipher:
        if self._listener.hears(CHANNEL):
            known = self._known.get(project_id)
            if known is not None:
                self._known.move_to_end(project_id)
                return known
        self._listener.subscribe(CHANNEL, self._forget, self._forget_all)
        heard, erased_count = self._listener.hears(CHANNEL), self._erased_count
        with translated():
            row = await self._pool.fetchrow(FIND, project_id)
            if row is None:
                # Of several that make one at once, the first wins.
                fresh = self._sealer.seal(project_id.bytes + self._ciphers.new_key())
                await self._pool.execute(KEEP, project_id, fresh)
                row = await self._pool.fetchrow(FIND, project_id)
        if row["wrapped"] is None:
            raise ContentErasedError(row["erased_at"])
        cipher = self._ciphers.cipher(self._unwrapped(project_id, row["wrapped"]))
        # An erasure that was heard while we asked may have been this one's.
        if heard and self._erased_count == erased_count:
            self._known[project_id] = cipher
            if len(self._known) > CIPHERS_KEPT:
                self._known.popitem(last=False)
        return cipher

    def _unwrapped(self, project_id: UUID, wrapped: bytes) -> bytes:
        plain = self._sealer.open(wrapped)
        if not plain.startswith(project_id.bytes):
            raise ContentDamagedError(f"the data key of project {project_id} is another's")
        return plain.removeprefix(project_id.bytes)

    def _forget(self, text: str) -> None:
        self._erased_count += 1
        self._known.pop(UUID(text), None)

    def _forget_all(self) -> None:
        self._erased_count += 1
        self._known.clear()
