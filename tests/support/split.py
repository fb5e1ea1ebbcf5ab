"""`contreed api` and `contreed worker` as processes of their own, over a database of one's own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping

import httpx

from tests.support.server import (
    A_SHORT_DRAIN,
    ANY_PORT,
    CONTREED,
    RunningServer,
    listening_url,
    supervisor,
    wait_until_ready,
)

WAIT_S = 300


class Split:
    """One host's API and worker; `place` knows their data directory and what belongs to it."""

    def __init__(self, place: RunningServer, environment: Mapping[str, str]) -> None:
        self.place = place
        self.url = ""
        allowed = {"CONTREED_IMPORT_ALLOW": "127.0.0.0/8"}  # where the tests' registries are
        self.environment = {**os.environ, **allowed, **A_SHORT_DRAIN, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, part: str) -> None:
        """Start `api` or `worker`, as systemd does: it says itself when it is ready."""
        options = ["--listen", ANY_PORT] if part == "api" else []
        with supervisor() as (notices, variables), self.place.log.open("ab") as log:
            self._running[part] = process = subprocess.Popen(
                [CONTREED, part, "--data-dir", self.place.data_dir, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.environment, **variables},
            )
            wait_until_ready(process, notices, lambda: self.place.log_text)
        if part == "api":
            self.url = listening_url(self.place.log_text)
            assert httpx.get(f"{self.url}/readyz").status_code == 200

    def end(self, part: str, number: signal.Signals) -> None:
        """Send the signal and wait; SIGTERM must end it in good order."""
        process = self._running.pop(part)
        process.send_signal(number)
        status = process.wait(WAIT_S)
        assert status == (0 if number == signal.SIGTERM else -number), self.place.log_text

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
