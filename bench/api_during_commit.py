"""How slow does GET of an operation get while a worker commits a layer of 1 GB?

One client asks, pauses for a millisecond and asks again, all the time: while nothing
else happens, while the command writes its random bytes, and from its exit to the commit. The
reference is the idle time of the same round. Each sample is the 99th percentile of one such time.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import UUID

from bench._commit import commit_window
from bench._http_client import Connection, request_bytes
from bench._measure import Report, progress
from bench._service import Service, service

WRITTEN_MB = 1000
COMMAND = f"dd if=/dev/urandom of=/written bs=1000000 count={WRITTEN_MB} 2>/dev/null; sync"
ROUNDS = 3
IDLE_S = 5.0
WARM_UP_S = 1.0
PAUSE_S = 0.001
PERCENT = 99
IDLE, WRITING, COMMITTING = "idle", "while the command writes", "while the layer is committed"


def main() -> None:
    report = Report("api_during_commit", __doc__.splitlines()[0])
    with report.running(), service() as running:
        image = running.checkpoint()
        report.accelerator = running.accelerator
        asked = running.api.get("/operations")[0]["uuid"]
        p99: dict[str, list[float]] = {IDLE: [], WRITING: [], COMMITTING: []}
        p50: dict[str, list[float]] = {IDLE: [], WRITING: [], COMMITTING: []}
        commits_s: list[float] = []
        for number in range(ROUNDS):
            progress(f"round {number + 1}/{ROUNDS}")
            with _client(running, asked) as samples:
                time.sleep(WARM_UP_S)
                idle = (time.time(), time.time() + IDLE_S)
                time.sleep(IDLE_S)
                operation = UUID(running.api.run(image, COMMAND).want_exit().uuid)
                window = running.with_core(lambda core, o=operation: commit_window(core, o))
            times = {IDLE: idle, WRITING: (idle[1], window[0]), COMMITTING: window}
            for name, (begin, end) in times.items():
                took = [took for at, took in samples if begin <= at <= end]
                p99[name].append(_percentile(took))
                p50[name].append(statistics.median(took))
            commits_s.append(window[1] - window[0])
        for name in (COMMITTING, WRITING):
            report.add(f"GET p{PERCENT}, {name}", "ms", p99[name], p99[IDLE], reference_name=IDLE)
            report.add(f"- its p50, {name}", "ms", p50[name], p50[IDLE], reference_name=IDLE)
        report.add(f"{WRITTEN_MB} MB, exit to usable", "s", commits_s)


@contextmanager
def _client(running: Service, operation: str) -> Iterator[list[tuple[float, float]]]:
    """Ask all the time in a thread; give (when it was sent, Unix s; how long it took, ms)."""
    samples: list[tuple[float, float]] = []
    stop = threading.Event()
    port = urlsplit(running.url).port
    assert port is not None

    def ask() -> None:
        request = request_bytes(f"/v1/operations/{operation}", running.authorization)
        with Connection(port) as connection:
            while not stop.wait(PAUSE_S):
                sent, began = time.time(), time.perf_counter()
                connection.get(request)
                samples.append((sent, (time.perf_counter() - began) * 1000))

    thread = threading.Thread(target=ask, name="client")
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def _percentile(samples: Sequence[float]) -> float:
    return statistics.quantiles(samples, n=100)[PERCENT - 1]


if __name__ == "__main__":
    main()
