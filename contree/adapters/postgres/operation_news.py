"""News of operations by NOTIFY (app.operation_news.OperationNews).

Journal writers and the log's trigger tell the operation's id; here it finds its subscribers.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from contree.adapters.postgres.listener import PostgresListener

CHANNEL = "operation_news"


class PostgresOperationNews:
    def __init__(self, listener: PostgresListener) -> None:
        self._listener = listener
        self._subscribers: dict[UUID, set[Callable[[], None]]] = {}

    def subscribe(self, operation_id: UUID, wake: Callable[[], None]) -> Callable[[], None]:
        self._listener.subscribe(CHANNEL, self._heard, self._missed)
        self._subscribers.setdefault(operation_id, set()).add(wake)

        def unsubscribe() -> None:
            wakes = self._subscribers.get(operation_id, set())
            wakes.discard(wake)
            if not wakes:
                self._subscribers.pop(operation_id, None)

        return unsubscribe

    def _heard(self, text: str) -> None:
        for wake in list(self._subscribers.get(UUID(text), ())):
            wake()

    def _missed(self) -> None:
        for wakes in list(self._subscribers.values()):
            for wake in list(wakes):
                wake()
