"""What does a run cost, from POST to its completion event, beside QEMU alone?

Runs `true` on a small checkpoint, one at a time on a warm service, then two at a time. Beside it a
bare QEMU boots the same guest from the same disks, runs the same command over the same protocol
and pulls the same tar (its disks are made before its clock starts). The service's phases come from
its own records: log events, journal, commit times and the worker's boot times.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import orjson

from bench._measure import Report, Target, alternate, progress
from bench._raw_guest import Phases, RawSetup, raw_guest
from bench._service import Service, service
from contree.bootstrap import Core

RUNS = 12
PARALLEL = 2
PARALLEL_RUNS = 8
PARALLEL_ROUNDS = 2
WARM_UP_RUNS = 1
RAW = "bare QEMU, cold boot"

BOOT_PHASES = re.compile(
    r"BootPhases\(create_s=([\d.e-]+), ready_s=([\d.e-]+), configure_s=([\d.e-]+)\)"
)
EVENTS = """
SELECT topic, convert_from(state, 'UTF8')::json AS state, recorded_at FROM public.stored_events
WHERE originator_id = $1 ORDER BY originator_version
"""


def main() -> None:
    report = Report("run_latency", __doc__.splitlines()[0])
    with (
        report.running(),
        service(log_level="DEBUG") as running,
        tempfile.TemporaryDirectory(prefix="raw-") as raw_dir,
    ):
        image = running.checkpoint()
        setup = running.raw_setup(image)
        report.accelerator = setup.accelerator
        raw = _RawLoop(Path(raw_dir), setup)
        clients = [_Client(running) for _ in range(PARALLEL)]
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
            targets=(Target(of="ours", at_most=500),),
        )
        _add_phases(report, running, clients[0], raw.phases[:])
        rates = alternate(
            PARALLEL_ROUNDS,
            ours=lambda: _rate([partial(c.run, image) for c in clients]),
            raw=lambda: _rate([raw.run] * PARALLEL),
        )
        report.add(
            f"throughput, {PARALLEL} at a time",
            "runs/s",
            rates["ours"],
            rates["raw"],
            reference_name=RAW,
        )
        for client in clients:
            client.close()
        report.note(
            "ours is restored from a template, the reference boots cold: the ratio is what the "
            "template gains; the targets against a bare restore are not measured yet"
        )


class _Client:
    """Runs `true` as a client does. `seen` is (operation, POST sent, completion read), Unix s."""

    def __init__(self, running: Service) -> None:
        self.seen: list[tuple[UUID, float, float]] = []
        self._http = httpx.Client(
            base_url=f"{running.url}/v1", headers=running.authorization, timeout=60
        )

    def close(self) -> None:
        self._http.close()

    def run(self, image: str) -> float:
        """Return the seconds from POST to the completion event. Raises AssertionError."""
        sent, began = time.time(), time.monotonic()
        body = {"image": image, "command": "true", "shell": False}
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


class _RawLoop:
    """Runs `true` in bare QEMUs, below a directory with a short path."""

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


def _rate(loops: Sequence[Callable[[], float]]) -> float:
    """Return runs per second when each loop has a thread of its own."""

    def repeat(run: Callable[[], float]) -> None:
        for _ in range(PARALLEL_RUNS // len(loops)):
            run()

    began = time.monotonic()
    with ThreadPoolExecutor(len(loops)) as threads:
        list(threads.map(repeat, loops))
    return PARALLEL_RUNS / (time.monotonic() - began)


def _add_phases(report: Report, running: Service, client: _Client, raw: list[Phases]) -> None:
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
        report.add(f"- {name}", "ms", samples, reference, reference_name=RAW if reference else "")


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
        "plan and disks": started - created_s - ready_s - configured_s,
        "create QEMU": started - ready_s - configured_s,
        "boot to agent ready": started - configured_s,
        "configure (mount)": started,
        "record start, spawn": journal["spawn"],
        "command": journal["exit"],
        "capture and store": _decided(events["succeeded"]),
        "commit": recorded["succeeded"],
        "completion event read": read,
    }
    return _differences(sent, marks)


def _raw_timeline(phases: Phases) -> dict[str, float]:
    marks = {
        "create QEMU": phases.connected_s,
        "boot to agent ready": phases.ready_s,
        "configure (mount)": phases.configured_s,
        "record start, spawn": phases.spawned_s,
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
