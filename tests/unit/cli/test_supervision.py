"""Built on the real datagrams between a process and its supervisor."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from contree.cli.supervision import (
    READY,
    STOPPING,
    Readiness,
    is_ready,
    tell_status,
    tell_supervisor,
)


@pytest.fixture
def address() -> Iterator[Path]:
    """pytest's own directories are too deep for sockets."""
    with tempfile.TemporaryDirectory(prefix="ct", dir="/tmp") as name:
        yield Path(name) / "notify"


async def test_a_child_that_is_ready_is_heard(
    address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    async with Readiness(address) as heard:
        tell_supervisor(f"STATUS=here\n{READY}")
        async with asyncio.timeout(10):
            await heard.told.wait()
    assert not address.exists()


async def test_what_keeps_a_child_from_work_is_heard(
    address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    heard = []

    class Told(Readiness):
        def hear(self, datagram: bytes) -> None:
            super().hear(datagram)
            heard.append((self.problem, self.told.is_set()))
            if len(heard) == 3:
                done.set()

    done = asyncio.Event()
    async with Told(address), asyncio.timeout(10):
        tell_status("mkfs.ext4 is not\ninstalled")
        tell_supervisor(READY)
        tell_status(None)
        await done.wait()
    problem = "mkfs.ext4 is not installed"
    assert heard == [(problem, False), (problem, True), ("", True)]


@pytest.mark.parametrize("state", [STOPPING, "READY=10", "STATUS=READY=1", ""])
def test_another_state_is_not_readiness(state: str) -> None:
    assert not is_ready(state.encode())


def test_a_supervisor_may_have_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("")  # Linux chooses one
        name = supervisor.getsockname().decode()
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@", 1))
        tell_supervisor(READY)
        supervisor.settimeout(10)
        assert supervisor.recv(100) == READY.encode()


def test_without_a_supervisor_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    tell_supervisor(READY)


def test_a_supervisor_that_is_gone_is_no_failure(
    address: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    tell_supervisor(READY)
    assert "was not told READY=1" in caplog.text
