"""What one worker process knows of itself at this moment: what a monitoring system asks it for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from contree.app.guest.microvm import Origin
from contree.domain.operation import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestStarts:
    """Counted since the start of the process.

    by_origin  guests that came up, every origin among them
    fallbacks  guests that could not be restored, and were booted instead
    failed     guests that did not come up
    waiting    guests that wait for a run now
    """

    by_origin: Mapping[Origin, int]
    fallbacks: int
    failed: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStanding:
    """What holds now.

    running      operations that it carries out
    free         how many more it would take on; 0 for all while there is an obstacle
    obstacle     one word for what keeps it from taking on any: disk, away, name, draining; None
    layer_bytes  what layers, and what is derived of them, take on this host's disk
    renewed_at   when it last renewed its leases; None before the first time
    """

    running: Mapping[Kind, int]
    free: Mapping[Kind, int]
    obstacle: str | None
    guests: GuestStarts
    layer_bytes: int
    renewed_at: datetime | None
