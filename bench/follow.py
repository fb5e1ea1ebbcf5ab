"""How long after a guest's write do 1 and 1,000 followers have it, and what do they cost the API?

A command writes a line now and then; all follow the one operation. From the worker's stamp (when it
has read the line from the guest's port) to each follower, one clock for both, beside a bare aiohttp
server that writes one event to as many. What comes before the stamp, the guest's write until the
worker has it, is taken as half of an echo over the bare channel, measured in the same run.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench._bare_servers import BareServer, bare_server
from bench._followers import Follower, followers, latencies_ms
from bench._measure import Report, Target, progress
from bench._memory_of import pss_mib
from bench._raw_guest import raw_guest_of
from bench._raw_streams import StreamingGuest
from bench._service import Service, service

CROWD = 1000
EVERY_MS = 250
EVENTS = 24
ROUNDS = 3
SETTLE_S = 1.0
ECHOES = 200
ECHO = b"x" * 60 + b"\n"
BARE = "bare aiohttp, one write to each"
COMMAND = f"while :; do echo {'x' * 60}; usleep {EVERY_MS * 1000}; done"

Latencies = dict[str, list[list[float]]]


def main() -> None:
    report = Report("follow", __doc__.splitlines()[0])
    with (
        report.running(),
        service() as running,
        bare_server("events", str(EVERY_MS)) as bare,
        tempfile.TemporaryDirectory(prefix="raw-") as raw_dir,
    ):
        image = running.checkpoint()
        channel_ms = _echo_ms(running, image, Path(raw_dir), report) / 2
        operation = running.api.spawn(image, COMMAND, disposable=True, timeout=3000)
        try:
            _wait_for_output(running, operation)
            latencies, _ = asyncio.run(_rounds(running, operation, bare, 1))
            _add(report, 1, latencies, channel_ms)
            latencies, sizes = asyncio.run(_rounds(running, operation, bare, CROWD))
            _add(report, CROWD, latencies, channel_ms)
            report.add(
                f"API with {CROWD:,} followers",
                "MiB",
                sizes["with"],
                sizes["before"][:1],  # afterwards it keeps what it had
                reference_name="the API before they came",
            )
        finally:
            running.api.cancel(operation)
            running.api.wait(operation)
        report.note(f"{channel_ms:.2f} ms of ours are half of an echo over the bare channel")


def _add(report: Report, count: int, latencies: Latencies, channel_ms: float) -> None:
    who = "1 follower" if count == 1 else f"{count:,} followers"
    target = (Target(of="ours", at_most=10),) if count == 1 else ()
    for name, of in (("p50", statistics.median), ("p99", _p99)):
        report.add(
            f"guest's write to {who}, {name}",
            "ms",
            [of(samples) + channel_ms for samples in latencies["ours"]],
            [of(samples) for samples in latencies["bare"]],
            reference_name=BARE,
            targets=target if name == "p50" else (),
        )


def _p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100)[98]


async def _rounds(
    running: Service, operation: str, bare: BareServer, count: int
) -> tuple[Latencies, dict[str, list[float]]]:
    """Alternate; return each round's latencies (ms), and the API's size (MiB) around ours."""
    port = urlsplit(running.url).port
    assert port is not None
    path = f"/v1/operations/{operation}/events?follow=1"
    latencies: Latencies = {"ours": [], "bare": []}
    sizes: dict[str, list[float]] = {"before": [], "with": []}
    for number in range(ROUNDS):
        progress(f"{count} followers, round {number + 1}/{ROUNDS}")
        sizes["before"].append(pss_mib(running.server.pid))
        async with followers(port, path, running.authorization, count) as those:
            latencies["ours"].append(await _heard(those))
            sizes["with"].append(pss_mib(running.server.pid))
        async with followers(bare.port, "/", {}, count) as those:
            latencies["bare"].append(await _heard(those))
    return latencies, sizes


async def _heard(those: list[Follower]) -> list[float]:
    """Listen for EVENTS events, from a moment on when all is quiet."""
    await asyncio.sleep(SETTLE_S)
    since_s = time.time()
    await asyncio.sleep(EVENTS * EVERY_MS / 1000)
    until_s = time.time()
    await asyncio.sleep(SETTLE_S)
    return latencies_ms(those, since_s=since_s, until_s=until_s)


def _wait_for_output(running: Service, operation: str) -> None:
    while "stdout" not in {event["type"] for event in running.api.events(operation)}:
        time.sleep(0.1)


def _echo_ms(running: Service, image: str, directory: Path, report: Report) -> float:
    """Return how long a line takes to a process in a bare guest and back, median, ms."""
    with (
        running.restored_setup(image) as setup,
        raw_guest_of(StreamingGuest, directory, setup) as guest,
    ):
        report.accelerator = setup.accelerator
        guest.start()
        guest.spawn(b"cat", stdin_open=True)
        samples = [guest.echo_s(ECHO) * 1000 for _ in range(ECHOES)]
    report.add("- an echo over the bare channel", "ms", samples)
    return statistics.median(samples)


if __name__ == "__main__":
    main()
