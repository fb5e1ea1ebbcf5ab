"""Optimistic concurrency: load, decide, append; when somebody was first, do it again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from contree.domain.errors import ConflictError

T = TypeVar("T")

ATTEMPTS_MAX = 20


async def retry_conflicts(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what `attempt` returns; it loads afresh each time it is called.

    Raises ConflictError when ATTEMPTS_MAX attempts in a row were beaten.
    """
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            return await attempt()
        except ConflictError:
            continue
    return await attempt()
