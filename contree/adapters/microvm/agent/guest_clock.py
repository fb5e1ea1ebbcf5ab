"""Whether a guest's clock runs as fast as the host's.

Linux measures its clock's rate while it boots, against timers that QEMU emulates. On busy machines
the result was seen to be wrong by a factor of five, and by 4 % in one boot of ten. It stays so:
dates, sleeps and timeouts in the guest, and in every clone of it, are wrong by as much.

A reading is made at an unknown moment between question and answer. So two of them bound the rate,
the closer the longer the time between them. A right clock is within the bounds however late answers
are.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from contree.adapters.microvm.agent import commands, messages
from contree.adapters.microvm.agent.channel import AgentChannel
from contree.adapters.microvm.agent.commands import HostFrameType

TOLERANCE = 0.02
"""Of the rate. Linux measures again after a second, and takes that when it is within 0.01."""

PAUSE_S = 0.25
LIMIT_S = 5.0
"""Then the bounds are taken as they are: what may be right passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the guest's clock said, between two moments of the host's; seconds."""

    asked_s: float
    guest_s: float
    answered_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Seconds of the guest's clock in one of the host's: from `least` to `most`."""

    least: float
    most: float

    @classmethod
    def between(cls, first: Reading, last: Reading) -> Rate:
        """Return what two readings tell; the second was asked for after the first answer."""
        guest_s = last.guest_s - first.guest_s
        return cls(
            least=guest_s / (last.answered_s - first.asked_s),
            most=guest_s / (last.asked_s - first.answered_s),
        )

    def and_also(self, other: Rate) -> Rate:
        """Return the bounds of both."""
        return Rate(least=max(self.least, other.least), most=min(self.most, other.most))

    @property
    def wrong(self) -> bool:
        """Whether no rate in the bounds is right."""
        return self.least > 1 + TOLERANCE or self.most < 1 - TOLERANCE

    @property
    def close(self) -> bool:
        """Whether the bounds tell a right clock from a wrong one."""
        return self.most - self.least <= TOLERANCE


async def clock_fault(channel: AgentChannel) -> str | None:
    """Return what is wrong with the rate of a guest's clock, None when it is right.

    Takes PAUSE_S where answers come at once, at most LIMIT_S and an answer. Raises GuestFailure.
    """
    readings = [await _read(channel)]
    rate = Rate(least=0, most=math.inf)
    while True:
        await asyncio.sleep(PAUSE_S)
        last = await _read(channel)
        for earlier in readings:
            rate = rate.and_also(Rate.between(earlier, last))
        if rate.wrong:
            return f"its clock runs {rate.least:.2f} to {rate.most:.2f} times as fast as the host's"
        if rate.close or last.answered_s - readings[0].asked_s > LIMIT_S:
            return None
        readings.append(last)


async def _read(channel: AgentChannel) -> Reading:
    asked_s = time.monotonic()
    ready = await channel.ask(commands.hello(), (HostFrameType.HELLO, 0))
    assert isinstance(ready, messages.Ready)  # answered_by pairs them
    return Reading(asked_s=asked_s, guest_s=ready.uptime_us / 1e6, answered_s=time.monotonic())
