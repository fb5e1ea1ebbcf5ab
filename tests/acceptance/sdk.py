"""contree-sdk without asyncio, its connections closed when the context ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from contree_sdk import ContreeSync
from contree_sdk._internals.utils.wrapper import coro_sync
from contree_sdk.auth import JWTAuth
from contree_sdk.config import ContreeConfig

POLL_SECS_MAX = 0.2
"""The SDK's own 10 s would only make the tests slow."""


@contextmanager
def signed_in(auth: JWTAuth) -> Iterator[ContreeSync]:
    contree = ContreeSync(ContreeConfig(auth=auth, operation_poll_secs_max=POLL_SECS_MAX))
    try:
        yield contree
    finally:
        coro_sync(_close(contree))


async def _close(contree: ContreeSync) -> None:
    """The SDK has no way to close it; its HTTP client belongs to the loop that asks for it."""
    await contree._api._client.aclose()
