"""A clone of the template that waits for its run."""

from __future__ import annotations

from dataclasses import dataclass

from contree.adapters.microvm.agent.messages import Ready
from contree.adapters.microvm.live_machines import LiveMachines
from contree.adapters.microvm.machine import Machine
from contree.adapters.microvm.templates.template import Template
from contree.adapters.microvm.templates.template_keeper import TemplateKeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingClone:
    """See `warm_guests.WaitingGuest`."""

    machine: Machine
    ready: Ready
    template: Template
    templates: TemplateKeeper
    machines: LiveMachines

    def flaw(self) -> str | None:
        if self.machine.failure is not None:
            return str(self.machine.failure)
        if self.templates.at_hand is not self.template:
            return "its template was given up"
        return None

    def end(self) -> None:
        self.machines.end(self.machine)
