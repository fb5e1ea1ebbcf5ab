"""Builds the agent once, plain and sanitized; starts it hosted, as PID 1 of a private namespace."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.messages import Configured
from tests.guest.raw_guest import configuration
from tests.guest.session import PATIENCE_S, Session
from tests.support.guest_build import GUEST_DIR, make_guest


@pytest.fixture(scope="session")
def built() -> Path:
    """The build folder, after `make all sanitized`."""
    make = make_guest("all", "sanitized")
    assert make.returncode == 0, make.stderr
    return GUEST_DIR / "build"


class Hosted(Session):
    """A session with a hosted agent, and that agent's process."""

    process: subprocess.Popen[bytes]
    upper: Path

    def ended(self) -> int:
        """Hang up, and return the agent's exit status: not 0 if a sanitizer complained."""
        self.control.shutdown(socket.SHUT_RDWR)
        return self.process.wait(PATIENCE_S)


def start_hosted(built: Path, upper: Path, stack: ExitStack) -> Hosted:
    """Start the sanitized agent in its own PID and mount namespace; / is the workload's root."""
    control, agent_control = socket.socketpair()
    data, agent_data = socket.socketpair()
    process = subprocess.Popen(
        [
            "unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
            str(built / "agent-sanitized"), "--hosted",
            str(agent_control.fileno()), str(agent_data.fileno()), "/", str(upper),
        ],
        pass_fds=(agent_control.fileno(), agent_data.fileno()),
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0"},
    )  # fmt: skip
    agent_control.close()
    agent_data.close()
    session = stack.enter_context(Hosted(control, data))
    session.process = process
    session.upper = upper
    return session


@pytest.fixture
def start(built: Path, tmp_path: Path) -> Iterator[Callable[[], Hosted]]:
    """Starts a blank hosted agent; at the end each must exit cleanly, sanitizers content."""
    started: list[Hosted] = []
    upper = tmp_path / "upper"
    upper.mkdir(mode=0o755)
    with ExitStack() as stack:

        def one() -> Hosted:
            started.append(start_hosted(built, upper, stack))
            return started[-1]

        try:
            yield one
        finally:
            statuses = [session.ended() for session in started]
    assert statuses == [0] * len(started)


@pytest.fixture
def agent(start: Callable[[], Hosted]) -> Hosted:
    """A configured hosted agent."""
    session = start()
    session.hello()
    session.send(commands.configure(configuration(0)))
    session.expect(Configured)
    return session
