"""News of operations in memory: whoever changes something tells it."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID


class FakeOperationNews:
    """`subscriptions` counts those that were ever made."""

    def __init__(self) -> None:
        self.subscriptions = 0
        self.subscribers: dict[UUID, set[Callable[[], None]]] = {}

    def tell(self, operation_id: UUID) -> None:
        for wake in list(self.subscribers.get(operation_id, ())):
            wake()

    def subscribe(self, operation_id: UUID, wake: Callable[[], None]) -> Callable[[], None]:
        self.subscriptions += 1
        wakes = self.subscribers.setdefault(operation_id, set())
        wakes.add(wake)
        return lambda: wakes.discard(wake)
