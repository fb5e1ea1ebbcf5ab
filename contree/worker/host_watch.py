"""Whether this host has what operations need: while it has not, a worker takes on nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

LOOK_S = 2.0

log = logging.getLogger(__name__)


class HostWatch:
    """`lacking` says what this host lacks and how to get it, None when it has all.

    `on_change` is called with what it says, when that is other than before.
    """

    def __init__(
        self,
        lacking: Callable[[], str | None] = lambda: None,
        *,
        on_change: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self.on_change = on_change
        self._lacking = lacking
        self._lack: str | None = None

    @property
    def lack(self) -> str | None:
        """What was lacking at the last look."""
        return self._lack

    def look(self) -> str | None:
        """Look now, and return what is lacking."""
        before, self._lack = self._lack, self._lacking()
        if self._lack != before:
            if self._lack is None:
                log.warning("this host has what operations need, they are taken on")
            else:
                log.error("no operation is taken on while this host lacks it: %s", self._lack)
            self.on_change(self._lack)
        return self._lack

    async def until_complete(self, *, unless: asyncio.Event) -> bool:
        """Wait until nothing is lacking; False if `unless` is set before."""
        while self.look() is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(unless.wait(), LOOK_S)
                return False
        return True

    async def keep_looking(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)
