"""What keeps a host from taking on any operation: each stays in the queue for another worker.

A worker asks before every claim and goes on by itself when nothing is in the way any more. What
runs already goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from contree.app.outages import Outages

_MIB: Final = 1024**2
LOOK_S: Final = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """`kind` is one word, for metrics; `reason` tells an operator what is wrong and what helps."""

    kind: str
    reason: str


class HealthCheck(Protocol):
    """Something that a host needs for any operation."""

    def __call__(self) -> Obstacle | None:
        """Return what is in the way now. Called often: it must not block."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFloor:
    """Room that must be left on the disk: a run that fills it fails for no fault of its own."""

    free_bytes: Callable[[], int]
    reserve_bytes: int

    def __call__(self) -> Obstacle | None:
        try:
            free_bytes = self.free_bytes()
        except OSError as error:
            return Obstacle(kind="disk", reason=f"data_dir cannot be used: {error}")
        if free_bytes >= self.reserve_bytes:
            return None
        return Obstacle(
            kind="disk",
            reason=f"{free_bytes // _MIB} MiB are free below data_dir, less than disk_reserve_mib"
            f" {self.reserve_bytes // _MIB}: make room there",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingLacking:
    """`lacking` says which programs this host lacks and how to get them, None when it has all."""

    lacking: Callable[[], str | None]

    def __call__(self) -> Obstacle | None:
        lack = self.lacking()
        return None if lack is None else Obstacle(kind="programs", reason=lack)


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingAway:
    """While operations wait for the database or the store, another would only wait too."""

    outages: Outages

    def __call__(self) -> Obstacle | None:
        problem = self.outages.problem
        return None if problem is None else Obstacle(kind="away", reason=problem)


Told = Callable[[str | None], None]
"""Hears why nothing is taken on, and None when nothing is in the way any more."""


class Obstacles:
    """All checks of a worker. Tells the log, and `told`, when what is in the way changes."""

    def __init__(self, checks: Sequence[HealthCheck], *, told: Told = lambda _: None) -> None:
        self._checks = checks
        self._told = told
        self._last: Obstacle | None = None

    def first(self) -> Obstacle | None:
        """Return one obstacle, None when there is none."""
        return next(filter(None, (check() for check in self._checks)), None)

    def in_the_way(self) -> bool:
        """Whether there is an obstacle. To be asked before each claim."""
        now, before = self.first(), self._last
        self._last = now
        if now is not None and (before is None or before.kind != now.kind):
            log.warning("claims nothing, %s: %s", now.kind, now.reason)
            self._told(now.reason)
        elif now is None and before is not None:
            log.warning("claims again: nothing is in the way any more (%s)", before.kind)
            self._told(None)
        return now is not None

    async def until_none(self, *, unless: asyncio.Event) -> bool:
        """Wait until nothing is in the way; False if `unless` is set before."""
        while self.in_the_way():
            with suppress(TimeoutError):
                await asyncio.wait_for(unless.wait(), LOOK_S)
                return False
        return True
