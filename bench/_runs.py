"""`true` on an image again and again: as a client of the service, and in bare QEMUs beside it."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self
from uuid import UUID

import httpx

from bench._raw_guest import Phases, RawSetup, raw_guest
from bench._service import Service


class RunClient:
    """Runs commands as a client does. `seen` is (operation, POST sent, completion read), Unix s."""

    def __init__(self, running: Service) -> None:
        self.seen: list[tuple[UUID, float, float]] = []
        self._http = httpx.Client(
            base_url=f"{running.url}/v1", headers=running.authorization, timeout=60
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def run(self, image: str, command: str = "true") -> float:
        """Return the seconds from POST to the completion event. Raises AssertionError."""
        sent, began = time.time(), time.monotonic()
        body = {"image": image, "command": command, "shell": " " in command}
        operation = self._http.post("/instances", json=body).raise_for_status().json()["uuid"]
        completion = ""
        with self._http.stream("GET", f"/operations/{operation}/events?follow=1") as events:
            for line in events.iter_lines():
                if line.startswith("data: ") and '"completion"' in line:
                    completion = line
                    break
        took_s = time.monotonic() - began
        assert '"SUCCESS"' in completion, completion
        self.seen.append((UUID(operation), sent, sent + took_s))
        return took_s


class RawLoop:
    """Runs `true` in bare QEMUs, each in a directory of its own below `directory`."""

    def __init__(self, directory: Path, setup: RawSetup) -> None:
        self.phases: list[Phases] = []
        self._directory = directory
        self._setup = setup

    def run(self) -> float:
        """Return the seconds from the start of QEMU to the whole tar on the host."""
        digest = hashlib.sha256()
        with (
            tempfile.TemporaryDirectory(dir=self._directory) as private,
            raw_guest(Path(private), self._setup) as guest,
        ):
            guest.start()
            assert guest.run(b"true") == 0
            guest.capture(digest.update)
            self.phases.append(guest.phases)
            return guest.phases.captured_s


def rate(runs: Sequence[Callable[[], object]], *, total: int) -> float:
    """Return runs per second: `total` of them, by one thread for each of `runs`."""
    left = iter(range(total))

    def repeat(run: Callable[[], object]) -> None:
        while next(left, None) is not None:
            run()

    began = time.monotonic()
    with ThreadPoolExecutor(len(runs)) as threads:
        list(threads.map(repeat, runs))
    return total / (time.monotonic() - began)
