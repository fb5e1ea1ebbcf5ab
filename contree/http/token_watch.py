"""Whether the tokens of open streams are still good: asked again and again, once a token.

A request is checked when it comes in; a stream goes on after that, so its token is looked at for
as long as it is open. While the database is away nobody can be asked, and nothing new can be read
either: streams end by that, or are asked about again once it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from aiohttp import web

from contree.app.access import Access, Caller
from contree.domain.errors import ContreeError, UnauthenticatedError

LOOK_S = 5.0
"""How often a token is looked at: with what a look and a wake-up take, within 10 s."""

WITHDRAWN = b"the token was revoked or has expired"

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Watched:
    """A token with open streams, the task that looks at it, and how many streams there are."""

    looking: asyncio.Task[None]
    withdrawn: asyncio.Event = field(default_factory=asyncio.Event)
    streams: int = 0


class TokenWatch:
    """The tokens of this process's open streams."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._watched: dict[UUID, _Watched] = {}

    @asynccontextmanager
    async def watched(self, caller: Caller) -> AsyncIterator[asyncio.Event]:
        """Yield what is set once the caller's token is revoked or has expired."""
        token_id = caller.token.token_id
        if (known := self._watched.get(token_id)) is None:
            looking = asyncio.create_task(self._look(caller), name=f"watch of token {token_id}")
            known = self._watched[token_id] = _Watched(looking=looking)
        known.streams += 1
        try:
            yield known.withdrawn
        finally:
            known.streams -= 1
            if not known.streams:
                known.looking.cancel()
                del self._watched[token_id]

    async def _look(self, caller: Caller) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._access.require_still_good(caller)
            except UnauthenticatedError:
                self._watched[caller.token.token_id].withdrawn.set()
                return
            except ContreeError as error:
                _log.warning("token %s could not be looked at: %s", caller.actor, error)


TOKENS: web.AppKey[TokenWatch] = web.AppKey("tokens", TokenWatch)
