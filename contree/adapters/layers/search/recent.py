"""What was used last, up to a sum of costs: what searches keep for the next ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A mapping that forgets what was not asked for longest. Not for use by several threads.

    cost_max   of all that is kept, in the unit of `put`; the last one stays whatever it costs
    """

    def __init__(self, cost_max: int) -> None:
        self._cost_max = cost_max
        self._cost = 0
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        known = self._kept.get(key)
        if known is None:
            return None
        self._kept.move_to_end(key)
        return known[0]

    def put(self, key: K, value: V, *, cost: int) -> None:
        if key in self._kept:
            self._cost -= self._kept.pop(key)[1]
        self._kept[key] = value, cost
        self._cost += cost
        while self._cost > self._cost_max and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self._cost -= freed
