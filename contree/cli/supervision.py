"""What a long-running command and its supervisor tell each other: signals, and sd_notify(3).

A worker says `READY=1`, in one datagram, to the `serve` that started it; each of the long-running
commands says it to systemd (`Type=notify`). With `STATUS=` a worker says what keeps it from work,
or, with nothing behind it, that nothing does any more. SIGINT and SIGTERM ask for an end in good
order: the first lets what runs come to its end, a second one does not.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from contree.config import supervisor_address

READY = "READY=1"
STATUS = "STATUS="
STOPPING = "STOPPING=1"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What signals ask for. `asked`: to end in good order; `at_once`: not to wait for what runs."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)

    def signalled(self) -> None:
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()


def stop_on_signals() -> Stop:
    """Return what SIGINT and SIGTERM set from now on."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.signalled)
    return stop


def tell_supervisor(state: str) -> None:
    """Send `state` to the supervisor that started this process, if one asked for it."""
    address = supervisor_address()
    if address is None:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(state.encode(), address)
    except OSError as error:
        log.warning("the supervisor at %r was not told %s: %s", address, state, error)


def tell_status(problem: str | None) -> None:
    """Tell the supervisor what keeps this process from its work; None: nothing."""
    tell_supervisor(STATUS + " ".join((problem or "").split()))


def status_in(datagram: bytes) -> str | None:
    """Return what a process says with `STATUS=`, None when it says nothing of it."""
    lines = datagram.decode(errors="replace").splitlines()
    said = [line.removeprefix(STATUS) for line in lines if line.startswith(STATUS)]
    return said[-1] if said else None


def is_ready(datagram: bytes) -> bool:
    """Whether a process says that it is ready; it may say other things besides."""
    return READY.encode() in datagram.splitlines()


class Readiness:
    """An async context manager that hears at `path` what a child tells its supervisor.

    told     set from its first `READY=1` on
    problem  what keeps it from its work, as it said last; "" for nothing
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told = asyncio.Event()
        self.problem = ""

    def hear(self, datagram: bytes) -> None:
        if (status := status_in(datagram)) is not None:
            self.problem = status
        if is_ready(datagram):
            self.told.set()

    async def __aenter__(self) -> Self:
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Receiver(self.hear), family=socket.AF_UNIX, local_addr=str(self.path)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()
        self.path.unlink(missing_ok=True)


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear

    def datagram_received(self, data: bytes, _sender: object) -> None:
        self._hear(data)
