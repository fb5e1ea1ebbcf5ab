"""Secrets at rest: sealed beside the pending operation, opened by the worker, then destroyed."""

from __future__ import annotations

from typing import Protocol


class Sealer(Protocol):
    """Authenticated encryption under the deployment's key. Implemented by adapters.system."""

    def seal(self, plain: bytes) -> bytes: ...

    def open(self, sealed: bytes) -> bytes:
        """Raises OperationFailure when it was not sealed under this key."""
        ...

    def digest(self, plain: bytes) -> str:
        """A keyed digest (hex): equal secrets have equal digests, and nothing else is told."""
        ...
