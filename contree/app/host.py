"""What the machine has left for guests. Implemented by adapters.system."""

from __future__ import annotations

from typing import Protocol


class Host(Protocol):
    """Our machine, or the part of it that we may use."""

    def cores(self) -> float:
        """Return how many cores we may use at once; a quota makes it a fraction."""
        ...

    def memory_available_bytes(self) -> int:
        """Return how much more memory could be taken now without swapping or being killed."""
        ...
