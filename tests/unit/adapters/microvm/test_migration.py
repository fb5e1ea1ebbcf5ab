"""A monitor that answers from a script and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from contree.adapters.microvm.hypervisor.migration import load_state, save_state
from contree.domain.errors import GuestFailure


class ScriptedMonitor:
    def __init__(self, *progress: dict[str, str]) -> None:
        self.asked: list[tuple[str, object, int | None]] = []
        self._progress = list(progress)

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, fd: int | None = None
    ) -> Any:
        self.asked.append((command, arguments, fd))
        return self._progress.pop(0) if command == "query-migrate" else {}


@pytest.mark.parametrize(
    ("move", "command"), [(save_state, "migrate"), (load_state, "migrate-incoming")]
)
def test_ram_is_left_out_the_descriptor_goes_along_and_the_end_is_awaited(
    move: Any, command: str
) -> None:
    # A guest that has not begun to migrate answers without a status.
    monitor = ScriptedMonitor({}, {"status": "active"}, {"status": "completed"})
    move(monitor, 7)
    assert [asked[0] for asked in monitor.asked] == [
        "migrate-set-capabilities", "getfd", command, *["query-migrate"] * 3,
    ]  # fmt: skip
    assert "x-ignore-shared" in str(monitor.asked[0][1])
    (_, named, fd), (_, moved, _) = monitor.asked[1], monitor.asked[2]
    assert fd == 7
    assert isinstance(named, Mapping)
    assert moved == {"uri": f"fd:{named['fdname']}"}


def test_a_failure_carries_qemu_s_reason() -> None:
    monitor = ScriptedMonitor({"status": "failed", "error-desc": "not this machine"})
    with pytest.raises(GuestFailure, match="not this machine") as failure:
        load_state(monitor, 7)
    assert failure.value.retryable
