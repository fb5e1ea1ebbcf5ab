"""Boots guests; one whose clock runs wrong is ended, and another booted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine

from contree.adapters.microvm.agent.messages import Ready
from contree.adapters.microvm.hypervisor.domain_xml import DomainSpec
from contree.adapters.microvm.live_machines import LiveMachines
from contree.adapters.microvm.machine import Machine
from contree.domain.errors import GuestFailure

BOOTS_MAX = 3

log = logging.getLogger(__name__)


async def boot(
    machines: LiveMachines,
    make: Callable[[], Machine],
    *,
    files: Callable[[DomainSpec], Coroutine[None, None, None]],
    within_s: float,
) -> tuple[Machine, Ready]:
    """Return a guest that is up and whose clock is right; the caller ends it.

    make    of a name that no other has
    files   fills its directory

    Raises GuestFailure: it does not boot, or BOOTS_MAX had a wrong clock.
    """
    fault: str | None = None
    for _ in range(BOOTS_MAX):
        machine = make()
        machines.add(machine)
        try:
            await machine.prepare(files(machine.spec))
            await machine.create()
            ready = await machine.connect(within_s=within_s)
            fault = await machine.clock_fault()
        except BaseException:
            machines.end(machine)
            raise
        if fault is None:
            return machine, ready
        machines.end(machine)
        log.warning("guest %s is refused: %s", machine.spec.name, fault)
    raise GuestFailure(f"the guest was booted {BOOTS_MAX} times, and {fault}", retryable=True)
