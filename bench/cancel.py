"""How long after DELETE is an operation CANCELLED and its guest gone, whatever it is doing?

From the request to the completion event at a follower, and to the end of its QEMU's process. The
reference is a bare QEMU that has restored the same template, from SIGKILL until it has gone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import orjson

from bench._measure import Report, Target, progress
from bench._raw_guest import RawSetup, raw_guest
from bench._service import Service, service

ROUNDS = 5
POLL_S = 0.002
KEPT_MIB = 200
KEEPS = f"head -c {KEPT_MIB}M /dev/zero >/large"
BARE = "SIGKILL to a bare QEMU"
AT_MOST = (Target(of="ours", at_most=1000),)


def main() -> None:
    report = Report("cancel", __doc__.splitlines()[0])
    with (
        report.running(),
        service(instances_here="1") as running,
        httpx.Client(
            base_url=f"{running.url}/v1", headers=running.authorization, timeout=60
        ) as http,
        tempfile.TemporaryDirectory(prefix="raw-") as raw_dir,
    ):
        image = running.checkpoint()
        with running.restored_setup(image) as setup:
            report.accelerator = setup.accelerator
            bare = [_bare_ms(Path(raw_dir), setup) for _ in range(ROUNDS)]
        cancelled = _Cancelled(running, http, image)
        states: dict[str, Callable[[], tuple[float, float]]] = {
            "running": lambda: cancelled.at("sleep 600", "spawn"),
            "starting its guest": lambda: cancelled.at("sleep 600", ""),
            f"keeping {KEPT_MIB} MB of files": lambda: cancelled.at(KEEPS, "exit", keep=True),
            "waiting for a worker": cancelled.waiting,
        }
        for state, cancel in states.items():
            samples = []
            for number in range(ROUNDS):
                progress(f"{state}, {number + 1}/{ROUNDS}")
                samples.append(cancel())
            ends, guests = zip(*samples, strict=True)
            report.add(f"{state}: DELETE to completion", "ms", ends, targets=AT_MOST)
            if any(guests):
                report.add(
                    f"{state}: DELETE to no QEMU",
                    "ms",
                    guests,
                    bare,
                    reference_name=BARE,
                    targets=AT_MOST,
                )


class _Cancelled:
    """Starts operations and cancels them; each call returns (completion, no QEMU) in ms."""

    def __init__(self, running: Service, http: httpx.Client, image: str) -> None:
        self._running = running
        self._http = http
        self._image = image

    def at(self, command: str, event: str, *, keep: bool = False) -> tuple[float, float]:
        """Cancel once the event has come; without one, as soon as a worker has taken it."""
        operation = self._running.api.spawn(self._image, command, disposable=not keep)
        if not event:
            self._running.api.wait_for(operation, {"ASSIGNED", "EXECUTING"})
        with self._followed(operation) as events:
            while event and next(events)["type"] != event:
                pass
            began = time.perf_counter()
            self._http.delete(f"/operations/{operation}").raise_for_status()
            _want_cancelled(events)
            ended_ms = (time.perf_counter() - began) * 1000
        while self._running.server.qemus():
            time.sleep(POLL_S)
        return ended_ms, (time.perf_counter() - began) * 1000

    def waiting(self) -> tuple[float, float]:
        """Cancel one that waits behind another."""
        first, second = (
            self._running.api.spawn(self._image, "sleep 600", disposable=True) for _ in range(2)
        )
        with self._followed(second) as events:
            began = time.perf_counter()
            self._http.delete(f"/operations/{second}").raise_for_status()
            _want_cancelled(events)
            ended_ms = (time.perf_counter() - began) * 1000
        self._running.api.cancel(first)
        self._running.api.wait(first)
        return ended_ms, 0.0

    @contextmanager
    def _followed(self, operation: str) -> Iterator[Iterator[dict[str, object]]]:
        with self._http.stream("GET", f"/operations/{operation}/events?follow=1") as answer:
            lines = answer.iter_lines()
            yield (orjson.loads(line[6:]) for line in lines if line.startswith("data: "))


def _want_cancelled(events: Iterator[dict[str, object]]) -> None:
    *_, last = events
    assert isinstance(last["data"], dict)
    assert (last["type"], last["data"]["status"]) == ("completion", "CANCELLED"), last


def _bare_ms(directory: Path, setup: RawSetup) -> float:
    """Restore a guest, kill its QEMU, return how long until the process has gone."""
    with tempfile.TemporaryDirectory(dir=directory) as private:
        with raw_guest(Path(private), setup) as guest:
            guest.start()
            guest.spawn(b"sleep", b"600")
            began = time.perf_counter()
        return (time.perf_counter() - began) * 1000  # leaving the context kills it and waits


if __name__ == "__main__":
    main()
