"""What does a run cost, from POST to its completion event, beside QEMU alone?

Runs `true` on a small checkpoint, one at a time on a warm service, then two at a time. Beside it a
bare QEMU restores the same template with the same disks, runs the same command over the same
protocol and pulls the same tar (its disks are made before its clock starts). Then the same on a
service that has guests wait, each time after it has made up for the one that was used: neither a
run nor the bare QEMU beside it is measured while a guest is being made. The service's phases
come from its own records: log events, journal, commit times and the worker's boot times; its CPU
time is that of all its processes and the QEMUs.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import orjson

from bench._measure import Report, Target, alternate, progress
from bench._memory_of import pss_mib
from bench._raw_guest import Phases
from bench._runs import RawLoop, RunClient, rate
from bench._service import Service, service
from contree.bootstrap import Core

RUNS = 12
CPU_ROUNDS = 2
CPU_RUNS = 4
PARALLEL = 2
PARALLEL_RUNS = 8
PARALLEL_ROUNDS = 2
WARM_UP_RUNS = 1
WARM_GUESTS = 2
FILL_TIMEOUT_S = 60.0
RAW = "bare QEMU that restores the same template"

BOOT_PHASES = re.compile(
    r"BootPhases\(create_s=([\d.e-]+), ready_s=([\d.e-]+), configure_s=([\d.e-]+)\)"
)
WAITING = re.compile(r"guests that wait: (\d+)")
EVENTS = """
SELECT topic, convert_from(state, 'UTF8')::json AS state, recorded_at FROM public.stored_events
WHERE originator_id = $1 ORDER BY originator_version
"""


def main() -> None:
    report = Report("run_latency", __doc__.splitlines()[0])
    with report.running():
        _without_waiting_guests(report)
        _with_waiting_guests(report)


def _without_waiting_guests(report: Report) -> None:
    with (
        service(log_level="DEBUG") as running,
        tempfile.TemporaryDirectory(prefix="raw-") as raw_dir,
        ExitStack() as stack,
    ):
        image = running.checkpoint()
        setup = stack.enter_context(running.restored_setup(image))
        report.accelerator = setup.accelerator
        raw = RawLoop(Path(raw_dir), setup)
        clients = [stack.enter_context(RunClient(running)) for _ in range(PARALLEL)]
        for _ in range(WARM_UP_RUNS):
            clients[0].run(image)
            raw.run()
        clients[0].seen.clear()
        raw.phases.clear()
        samples = alternate(
            RUNS, ours=lambda: clients[0].run(image) * 1000, raw=lambda: raw.run() * 1000
        )
        report.add(
            "POST to completion, p50",
            "ms",
            samples["ours"],
            samples["raw"],
            reference_name=RAW,
            targets=(Target(of="ratio", at_most=1.2), Target(of="ours", at_most=500)),
        )
        _add_phases(report, running, clients[0], raw.phases[:])
        _add_cpu(
            report,
            "CPU time of a run",
            running,
            run=lambda: clients[0].run(image),
            settle=lambda: _wait_until_gone(running),
            raw=raw,
        )
        rates = alternate(
            PARALLEL_ROUNDS,
            ours=lambda: rate([partial(c.run, image) for c in clients], total=PARALLEL_RUNS),
            raw=lambda: rate([raw.run] * PARALLEL, total=PARALLEL_RUNS),
        )
        report.add(
            f"throughput, {PARALLEL} at a time",
            "runs/s",
            rates["ours"],
            rates["raw"],
            reference_name=RAW,
            targets=(Target(of="ratio", at_least=0.9),),
        )


def _with_waiting_guests(report: Report) -> None:
    """Add what a run costs when a guest waits for it."""
    with (
        service(log_level="DEBUG", warm_guests=str(WARM_GUESTS)) as running,
        tempfile.TemporaryDirectory(prefix="raw-") as raw_dir,
        ExitStack() as stack,
    ):
        image = running.checkpoint()
        raw = RawLoop(Path(raw_dir), stack.enter_context(running.restored_setup(image)))
        client = stack.enter_context(RunClient(running))

        def filled(measure: Callable[[], float]) -> float:
            _wait_until_filled(running)
            return measure() * 1000

        for _ in range(WARM_UP_RUNS):
            filled(partial(client.run, image))
            filled(raw.run)
        client.seen.clear()
        raw.phases.clear()
        samples = alternate(
            RUNS,
            ours=lambda: filled(partial(client.run, image)),
            raw=lambda: filled(raw.run),
        )
        report.add(
            "POST to completion, p50, a guest waits",
            "ms",
            samples["ours"],
            samples["raw"],
            reference_name=RAW,
            targets=(Target(of="ratio", at_most=0.7),),
        )
        _add_phases(report, running, client, [], prefix="a guest waits: ")
        _add_cpu(
            report,
            "CPU time of a run, with that of the guest that waits next",
            running,
            run=lambda: filled(partial(client.run, image)),
            settle=lambda: _wait_until_filled(running),
            raw=raw,
        )
        waiting = [pss_mib(qemu.pid) for qemu in running.server.qemus()]
        report.add("memory of a waiting guest (PSS)", "MiB", waiting)


def _wait_until_filled(running: Service) -> None:
    """Return when as many guests wait as may, by the service's log. Raises TimeoutError."""
    deadline = time.monotonic() + FILL_TIMEOUT_S
    while True:
        told = WAITING.findall(running.server.log_text)
        if told and int(told[-1]) == WARM_GUESTS:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {WARM_GUESTS} guests wait after {FILL_TIMEOUT_S} s")
        time.sleep(0.02)


def _wait_until_gone(running: Service) -> None:
    while running.server.qemus():
        time.sleep(0.02)


def _add_cpu(
    report: Report,
    what: str,
    running: Service,
    *,
    run: Callable[[], object],
    settle: Callable[[], None],
    raw: RawLoop,
) -> None:
    """Add what a run costs in CPU time, everything that works for it included.

    settle   returns when nothing works for earlier runs any more
    """
    samples = []
    for _ in range(CPU_ROUNDS):
        progress(what)
        settle()
        before = running.cpu_s()
        for _ in range(CPU_RUNS):
            run()
        settle()
        samples.append((running.cpu_s() - before) * 1000 / CPU_RUNS)
    theirs = [phases.cpu_s * 1000 for phases in raw.phases]
    report.add(what, "ms", samples, theirs, reference_name=RAW)


def _add_phases(
    report: Report, running: Service, client: RunClient, raw: list[Phases], *, prefix: str = ""
) -> None:
    progress("phases")
    boots = [tuple(map(float, m)) for m in BOOT_PHASES.findall(running.server.log_text)]
    own_boots = boots[-len(client.seen) :]

    async def timelines(core: Core) -> list[dict[str, float]]:
        return [
            await _timeline(core, operation, sent, read, boot)
            for (operation, sent, read), boot in zip(client.seen, own_boots, strict=True)
        ]

    ours = _by_phase(running.with_core(timelines))
    theirs = _by_phase([_raw_timeline(phases) for phases in raw])
    for name, samples in ours.items():
        reference = theirs.get(name)
        report.add(
            f"- {prefix}{name}", "ms", samples, reference, reference_name=RAW if reference else ""
        )


async def _timeline(
    core: Core, operation: UUID, sent: float, read: float, boot: Sequence[float]
) -> dict[str, float]:
    """Return what each phase of a run took, in ms; together they make the whole."""
    rows = await core.database.fetch(EVENTS, operation)
    events = {row["topic"].rpartition(".")[2]: row for row in rows}
    journal = {e.entry.type: e.entry.at.timestamp() for e in await core.journal.read(operation)}
    recorded = {topic: row["recorded_at"].timestamp() for topic, row in events.items()}
    created_s, ready_s, configured_s = boot
    started = _decided(events["started"])
    marks = {
        "POST until recorded": recorded["instance_requested"],
        "claim": recorded["assigned"],
        "plan and disks": started - created_s - ready_s,
        "create QEMU, load": started - ready_s,
        "agent ready": started,
        "mount, record start": started + configured_s,
        "spawn": journal["spawn"],
        "command": journal["exit"],
        "capture and store": _decided(events["succeeded"]),
        "commit": recorded["succeeded"],
        "completion event read": read,
    }
    return _differences(sent, marks)


def _raw_timeline(phases: Phases) -> dict[str, float]:
    marks = {
        "create QEMU, load": phases.created_s,
        "agent ready": phases.ready_s,
        "mount, record start": phases.configured_s,
        "spawn": phases.spawned_s,
        "command": phases.exited_s,
        "capture and store": phases.captured_s,
    }
    return _differences(0, marks)


def _decided(event: Mapping[str, object]) -> float:
    """When the process that recorded an event decided it, Unix s."""
    state = orjson.loads(str(event["state"]))
    return datetime.fromisoformat(state["timestamp"]["_data_"]).timestamp()


def _differences(start: float, marks: Mapping[str, float]) -> dict[str, float]:
    took, last = {}, start
    for name, at in marks.items():
        took[name], last = (at - last) * 1000, at
    return took


def _by_phase(runs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    phases: defaultdict[str, list[float]] = defaultdict(list)
    for run in runs:
        for name, took_ms in run.items():
            phases[name].append(took_ms)
    return phases


if __name__ == "__main__":
    main()
