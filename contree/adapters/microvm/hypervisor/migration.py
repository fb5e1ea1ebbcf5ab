"""Save and load a guest's device state over QEMU's monitor; its RAM stays where it is, in a file.

`x-ignore-shared` leaves RAM that is mapped shared out of the stream: what remains is some 0.4 MB,
and loading it takes milliseconds. The x- means that QEMU may take the capability away: then saving
fails, and whoever wants a template does without. It knows nothing of libvirt; it never touches RAM.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from contree.domain.errors import GuestFailure

MIGRATION_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.001
"""Loading takes some 5 ms in all."""

_FD_NAME = "contree-state"
_CAPABILITIES = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
_FAILED = ("failed", "cancelled")


class Monitor(Protocol):
    """One QEMU's monitor (QMP)."""

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, fd: int | None = None
    ) -> Any:
        """Return what `command` returns; `fd` goes along with it. Blocks. Raises GuestFailure."""
        ...


def save_state(monitor: Monitor, state_fd: int) -> None:
    """Write the device state of a stopped guest to `state_fd`. Blocks. Raises GuestFailure."""
    _migrate(monitor, "migrate", state_fd)


def load_state(monitor: Monitor, state_fd: int) -> None:
    """Fill a guest that waits with `-incoming defer`; it stays stopped. Blocks.

    `state_fd` must be of its own open file: QEMU moves its offset. Raises GuestFailure.
    """
    _migrate(monitor, "migrate-incoming", state_fd)


def _migrate(monitor: Monitor, command: str, state_fd: int) -> None:
    monitor.execute("migrate-set-capabilities", _CAPABILITIES)
    monitor.execute("getfd", {"fdname": _FD_NAME}, fd=state_fd)
    monitor.execute(command, {"uri": f"fd:{_FD_NAME}"})
    deadline = time.monotonic() + MIGRATION_TIMEOUT_S
    while True:
        found = monitor.execute("query-migrate")
        status = found.get("status")
        if status == "completed":
            return
        if status in _FAILED:
            reason = found.get("error-desc", status)
            raise GuestFailure(f"QEMU's {command} failed: {reason}", retryable=True)
        if time.monotonic() > deadline:
            raise GuestFailure(
                f"QEMU's {command} was not done in {MIGRATION_TIMEOUT_S:g} s", retryable=True
            )
        time.sleep(POLL_INTERVAL_S)
