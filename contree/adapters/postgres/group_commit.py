"""Group commit: appends of one process that wait at the same time share a transaction.

    idle --an append: a task starts--> committing --nothing waits--> idle
    committing: the appends that came meanwhile wait, and are the next transaction

Appends are serial anyway, by the log's lock; what they share is the lock, the round trip and the
commit's write to disk. An append never waits for others to come: alone, it is sent at once.

Only appends of the same statement text share a transaction (one Bind and Execute each, in one
round trip): so there are no more texts to plan than without, and locks are taken in the one order
that is known to be free of deadlocks. Each append stays all or nothing on its own: when the server
refuses a shared transaction, nothing of it was kept, and each append in it is tried alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from contree.adapters.postgres.failures import AWAY

SHARE_MAX = 64
"""Appends in one transaction: bounds how long others wait for the log's lock (a few ms)."""

HOPELESS = (
    *AWAY,
    asyncpg.DiskFullError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What each append alone would meet too, or after which nobody knows what was kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Append:
    text: str
    arguments: Sequence[Any]
    done: asyncio.Future[None]


class GroupCommit:
    """Executes single statements, each as if in a transaction of its own."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._waiting: list[_Append] = []
        self._task: asyncio.Task[None] | None = None

    async def execute(self, text: str, arguments: Sequence[Any]) -> None:
        """Return when it is committed. Raises the driver's errors, as if it had run alone.

        A caller that is cancelled while it waits does not know whether it was committed.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Append(text=text, arguments=arguments, done=done))
        if self._task is None:
            self._task = asyncio.create_task(self._commit_all(), name="group commit")
        await done

    async def _commit_all(self) -> None:
        """Commit until nothing waits, on one connection as long as that lasts."""
        try:
            while self._waiting:
                async with self._pool.acquire() as connection:
                    while self._waiting:
                        if not await _commit(connection, self._next_share()):
                            break
                        # Whoever was just answered may have more: let it join the next share.
                        await asyncio.sleep(0)
        except BaseException as error:
            # No connection to be had, or the event loop ends: nothing of what waits was sent.
            _settle(self._waiting, error)
            self._waiting = []
            if not isinstance(error, Exception):
                raise
        finally:
            self._task = None

    def _next_share(self) -> list[_Append]:
        """Take out what waits longest, and what may share a transaction with it."""
        wanted = [append for append in self._waiting if not append.done.done()]
        share = [append for append in wanted if append.text == wanted[0].text][:SHARE_MAX]
        taken = set(share)
        self._waiting = [append for append in wanted if append not in taken]
        return share


async def _commit(connection: asyncpg.Connection, share: Sequence[_Append]) -> bool:
    """Commit a share in one transaction; one by one when the server refuses it as a whole.

    Returns False when the connection may be of no more use.
    """
    try:
        if len(share) == 1:
            await connection.execute(share[0].text, *share[0].arguments)
        elif share:
            await connection.executemany(share[0].text, [append.arguments for append in share])
    except Exception as error:  # noqa: BLE001 - each append's caller gets it
        if len(share) == 1 or isinstance(error, HOPELESS):
            _settle(share, error)
            return not isinstance(error, HOPELESS)
        # The last first: whoever won a race is the first to be back, and must not win each race.
        return all([await _commit(connection, [append]) for append in reversed(share)])
    except BaseException as error:
        _settle(share, error)
        raise
    else:
        _settle(share, None)
    return True


def _settle(share: Sequence[_Append], error: BaseException | None) -> None:
    for append in share:
        if append.done.done():
            continue  # its caller was cancelled
        if error is None:
            append.done.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            append.done.cancel()
        else:
            append.done.set_exception(error)
