"""How followers learn that there is something new about an operation, without asking all the time.

Implemented by adapters.postgres.operation_news, one connection a process however many subscribe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from uuid import UUID


class OperationNews(Protocol):
    """Wakes subscribers."""

    def subscribe(self, operation_id: UUID, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` when the operation's journal has grown or the operation has ended.

        It may be called for nothing, and is called when news may have been missed (the connection
        was lost and is back); it must not block. A subscriber still looks by itself now and then.
        Returns what ends the subscription.
        """
        ...
