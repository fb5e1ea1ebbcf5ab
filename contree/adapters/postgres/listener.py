"""One connection that listens, for everything in this process that waits for a notification.

It connects when the first one waits, comes back by itself when it is lost, and then tells every
subscriber that news may have been missed. It interprets nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import asyncpg

from contree.adapters.postgres.failures import AWAY
from contree.adapters.postgres.pool import CONNECT_TIMEOUT_S, connect
from contree.domain.errors import UnavailableError

RECONNECT_S = 1.0

PROBE_S = 5.0
"""How often a connection that hears nothing is asked whether it is still there, and how long the
answer may take: after twice that nobody believes any more that it hears."""

_log = logging.getLogger(__name__)

Heard = Callable[[str], None]
"""Takes the text of a notification."""

Missed = Callable[[], None]
"""Called whenever listening has (re)started: what came before was not heard."""


class PostgresListener:
    """Made once a process; `aclose` it. Callbacks run on the event loop and must not block."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._subscribers: dict[str, tuple[Heard, Missed]] = {}
        self._listening: set[str] = set()
        self._changed = asyncio.Event()
        self._active = asyncio.Condition()
        self._keeper: asyncio.Task[None] | None = None

    def subscribe(self, channel: str, heard: Heard, missed: Missed) -> None:
        """Hear `channel` from now on; one subscriber a channel, later calls change nothing."""
        if channel in self._subscribers:
            return
        self._subscribers[channel] = (heard, missed)
        self._changed.set()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="postgres listener")

    def hears(self, channel: str) -> bool:
        """Whether every notification of `channel` reaches its subscriber at this moment."""
        return channel in self._listening

    async def listening(self, channel: str) -> None:
        """Wait until `channel` is being heard. Raises UnavailableError after CONNECT_TIMEOUT_S."""
        if channel in self._listening:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S), self._active:
                await self._active.wait_for(lambda: channel in self._listening)
        except TimeoutError:
            raise UnavailableError("the database is not available: nobody can listen") from None

    async def aclose(self) -> None:
        """Stop; nothing is heard any more."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            try:
                await self._listen()
            except (*AWAY, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                _log.warning("not listening, the database is away: %s", error)
            except Exception:  # noqa: BLE001 - nobody awaits this task; who waits for news would for ever
                _log.exception("not listening, by a defect")
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        """Hear all channels on one connection until it is lost."""
        connection = await connect(self._dsn)
        try:
            connection.add_termination_listener(lambda *_: self._changed.set())
            while not connection.is_closed():
                self._changed.clear()
                for channel, (_, missed) in list(self._subscribers.items()):
                    if channel not in self._listening:
                        await connection.add_listener(channel, self._hear)
                        async with self._active:
                            self._listening.add(channel)
                            self._active.notify_all()
                        missed()
                await self._changed_or_alive(connection)
        finally:
            self._listening.clear()
            with contextlib.suppress(*AWAY, asyncpg.InterfaceError):
                await connection.close(timeout=RECONNECT_S)

    async def _changed_or_alive(self, connection: asyncpg.Connection) -> None:
        """Wait for a change; meanwhile ask. Raises TimeoutError when no answer comes.

        A database whose host or network is gone says no goodbye.
        """
        while not self._changed.is_set():
            try:
                async with asyncio.timeout(PROBE_S):
                    await self._changed.wait()
            except TimeoutError:
                await connection.execute("SELECT", timeout=PROBE_S)

    def _hear(self, _: Any, __: int, channel: str, text: str) -> None:
        heard, _missed = self._subscribers[channel]
        heard(text)
