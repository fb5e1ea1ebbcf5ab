"""How much memory does `contreed serve` take, idle and with ten runs under way?

Proportional set sizes (shared pages divided among their users), process by process. Beside the
service a bare aiohttp + asyncpg server, beside its QEMUs bare QEMUs that restore the same template
and run the same command. A page of the template's memory that several guests only read is divided
among them.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench._bare_servers import bare_server
from bench._measure import Report, Target, progress
from bench._memory_of import pss_mib
from bench._raw_guest import RawGuest, RawSetup, raw_guest
from bench._service import Service, service

RUNS = 10
COMMAND = ("sleep", "600")
WARM_UP_RUNS = 3
WARM_UP_REQUESTS = 200
SAMPLES = 5
SAMPLE_PAUSE_S = 0.5
SETTLE_S = 3.0
STARTED_WITHIN_S = 150.0
BARE = "bare aiohttp + asyncpg"
RAW = "bare QEMU that restores the same template"
SERVICE = ("API", "worker")

Sizes = dict[str, list[float]]


def main() -> None:
    report = Report("memory", __doc__.splitlines()[0])
    with report.running(), service(cpu_overcommit=str(RUNS)) as running:
        image = running.checkpoint()
        for _ in range(WARM_UP_RUNS):
            running.api.run(image, "true").want_exit()
        while running.server.qemus():
            time.sleep(SAMPLE_PAUSE_S)
        with bare_server("rows", running.server.dsn()) as bare:
            _use(running, bare.port)
            time.sleep(SETTLE_S)
            idle = _sizes(running)
            bare_sizes = _sampled(lambda: {BARE: pss_mib(bare.pid)})[BARE]
        _add(report, "idle", idle, bare_sizes)
        busy = _while_running(running, image)
        _add(report, f"{RUNS} runs", busy, None)
        with running.restored_setup(image) as setup:
            report.accelerator = setup.accelerator
            raw = _raw_qemus(setup)
        report.add("each QEMU, 512 MiB guest", "MiB", busy["each QEMU"], raw, reference_name=RAW)


def _add(report: Report, state: str, sizes: Sizes, bare: list[float] | None) -> None:
    service_sizes = [sum(both) for both in zip(*(sizes[part] for part in SERVICE), strict=True)]
    targets = (Target(of="ours", at_most=150),) if state == "idle" else ()
    name = "" if bare is None else BARE
    report.add(
        f"{state}: service (API + worker)",
        "MiB",
        service_sizes,
        bare,
        reference_name=name,
        targets=targets,
    )
    for part in ("API", "worker", "PostgreSQL", "QEMUs"):
        if part in sizes:
            report.add(f"- {part}", "MiB", sizes[part])


def _use(running: Service, bare_port: int) -> None:
    """Let both servers allocate what they allocate when they serve."""
    operation = running.api.get("/operations")[0]["uuid"]
    for _ in range(WARM_UP_REQUESTS):
        running.api.operation(operation)
        running.api.http.get(f"http://127.0.0.1:{bare_port}/operations/{operation}")


def _while_running(running: Service, image: str) -> Sizes:
    operations = [_spawn(running, image) for _ in range(RUNS)]
    try:
        deadline = time.monotonic() + STARTED_WITHIN_S
        while sum(_has_spawned(running, operation) for operation in operations) < RUNS:
            assert time.monotonic() < deadline, "the runs did not start in time"
            progress("waiting for the runs to start")
            time.sleep(1)
        time.sleep(SETTLE_S)
        return _sizes(running)
    finally:
        for operation in operations:
            running.api.cancel(operation)
        for operation in operations:
            running.api.wait(operation)


def _spawn(running: Service, image: str) -> str:
    program, *args = COMMAND
    return running.api.spawn(image, program, args=args, disposable=True)


def _has_spawned(running: Service, operation: str) -> bool:
    return any(event["type"] == "spawn" for event in running.api.events(operation))


def _raw_qemus(setup: RawSetup) -> list[float]:
    """Return the size of each of as many bare QEMUs, all alive at once, some seconds long."""

    def begin(guest: RawGuest) -> None:
        guest.start()
        guest.spawn(*(word.encode() for word in COMMAND))

    with tempfile.TemporaryDirectory(prefix="raw-") as directory, ExitStack() as stack:
        guests = []
        for number in range(RUNS):
            private = Path(directory) / str(number)
            private.mkdir()
            guests.append(stack.enter_context(raw_guest(private, setup)))
        with ThreadPoolExecutor(RUNS) as threads:
            list(threads.map(begin, guests))
        time.sleep(SETTLE_S)
        sizes = _sampled(lambda: {RAW: sum(pss_mib(guest.pid) for guest in guests) / RUNS})
    return sizes[RAW]


def _sizes(running: Service) -> Sizes:
    """Return what each part takes, MiB; "each QEMU" is the mean of those alive."""

    def measure() -> dict[str, float]:
        sizes: defaultdict[str, float] = defaultdict(float)
        qemus = 0
        for process in running.server.processes():
            part = _part_of(process.pid, process.command, running)
            sizes[part] += pss_mib(process.pid)
            qemus += part == "QEMUs"
        if qemus:
            sizes["each QEMU"] = sizes["QEMUs"] / qemus
        return sizes

    return _sampled(measure)


def _part_of(pid: int, command: str, running: Service) -> str:
    if pid == running.server.pid:
        return "API"
    if "/qemu-system" in command.partition(" ")[0]:
        return "QEMUs"
    return "worker" if "contree worker" in command else "PostgreSQL"


def _sampled(measure: Callable[[], dict[str, float]]) -> Sizes:
    samples: Sizes = defaultdict(list)
    for _ in range(SAMPLES):
        for name, size in measure().items():
            samples[name].append(size)
        time.sleep(SAMPLE_PAUSE_S)
    return samples


if __name__ == "__main__":
    main()
