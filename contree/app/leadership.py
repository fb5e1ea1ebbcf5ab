"""Work that one process of a fleet does for all of them.

Implemented by adapters.postgres.leadership.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Leadership(Protocol):
    """Elects by name. It spares double work; what is written must not depend on it alone."""

    def lead(self, name: str) -> AbstractAsyncContextManager[None]:
        """Wait until no other process leads `name`, then lead until the end of the context.

        The body is cancelled, and UnavailableError raised, when the lead is lost with the
        connection that holds it.
        """
        ...
