"""How many more operations a worker takes on now, and why not more.

A run is a guest. It needs its share of the cores, of which `cpu_overcommit` times as many are given
away as there are; and memory: a guest's own, as far as it was touched, plus what QEMU itself takes.
Guests touch their memory little by little, so what those that run may still take is kept free for
them. A worker that runs nothing always takes one: waiting would free nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from contree.app.host import Host

QEMU_BYTES: Final = 64 * 1024**2
"""What a QEMU takes beside its guest's memory; 30 to 50 MiB measured."""

_MIB: Final = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Room for `more` operations.

    bound   what is scarce: the name of a setting, "CPU" or "memory"
    reason  the sum behind it, in words for the log
    """

    more: int
    bound: str
    reason: str


class Admission(Protocol):
    """Decides how many operations of one kind run here."""

    def room(self, running: int) -> Room:
        """Return the room that is left beside `running` operations of the kind."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedAdmission:
    """At most so many, by a setting."""

    most: int
    setting: str

    def room(self, running: int) -> Room:
        return Room(
            more=max(0, self.most - running),
            bound=self.setting,
            reason=f"{self.setting} {self.most}, of which {running} run",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestAdmission:
    """As many guests as the machine has cores and memory for.

    held_bytes      gives the memory that guests have made their own, waiting ones included
    memory_bytes    of each guest
    reserve_bytes   memory that is left to everything else
    most            upper bound, None for none
    """

    host: Host
    held_bytes: Callable[[], int]
    memory_bytes: int
    vcpu_count: int
    cpu_overcommit: float
    reserve_bytes: int
    most: int | None = None

    def waiting(self, wanted: int) -> int:
        """Return how many of `wanted` guests may wait for runs that are not known yet.

        They have only memory that is left when as many guests run as ever may: so none of them is
        in a run's way, whatever it needs. `held_bytes` has theirs too.
        """
        if wanted == 0:
            return 0
        each = self.memory_bytes + QEMU_BYTES
        for_guests = self.host.memory_available_bytes() + self.held_bytes() - self.reserve_bytes
        most = self._most_by_cpu() if self.most is None else min(self.most, self._most_by_cpu())
        return max(0, min(wanted, for_guests // each - most))

    def room(self, running: int) -> Room:
        scarcest = self._by_cpu(running)
        if self.most is not None:
            fixed = FixedAdmission(most=self.most, setting="instances_here").room(running)
            scarcest = min(scarcest, fixed, key=lambda room: room.more)
        if scarcest.more > 0:  # else there is no need to look further
            scarcest = min(scarcest, self._by_memory(running), key=lambda room: room.more)
        if scarcest.more < 1 and running == 0:
            return replace(
                scarcest, more=1, reason=f"{scarcest.reason}; but nothing runs, so one may"
            )
        return scarcest

    def _most_by_cpu(self) -> int:
        return max(1, int(self.host.cores() * self.cpu_overcommit / self.vcpu_count))

    def _by_cpu(self, running: int) -> Room:
        cores, most = self.host.cores(), self._most_by_cpu()
        return Room(
            more=max(0, most - running),
            bound="CPU",
            reason=f"{cores:g} cores x cpu_overcommit {self.cpu_overcommit:g}"
            f" / {self.vcpu_count} vCPU = {most}, of which {running} run",
        )

    def _by_memory(self, running: int) -> Room:
        each = self.memory_bytes + QEMU_BYTES
        available = self.host.memory_available_bytes()
        promised = max(0, running * each - self.held_bytes()) if running else 0
        more = max(0, (available - self.reserve_bytes - promised) // each)
        return Room(
            more=more,
            bound="memory",
            reason=f"({available // _MIB} MiB available"
            f" - memory_reserve_mib {self.reserve_bytes // _MIB}"
            f" - {promised // _MIB} that running guests may still touch)"
            f" / {each // _MIB} = {more}",
        )
