"""How many runs a second, with one to eight at a time, beside as many bare QEMUs?

`true` on a checkpoint, by as many clients as runs at a time, beside as many loops that restore the
same template bare. Where podman works here, `podman run` and `commit` of the same image too: what
a user would take instead, without a VM. Below each row, how many cores worked for it: the service's
processes and QEMUs, beside the bare QEMUs alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import _podman
from bench._measure import Report, Target, alternate, progress
from bench._runs import RawLoop, RunClient, rate
from bench._service import Service, service

AT_A_TIME = (1, 2, 4, 8)
RUNS_EACH = 3
RUNS_MIN = 8
ROUNDS = 3
GONE_POLL_S = 0.02
RAW = "bare QEMUs that restore the same template"
PODMAN = "podman run + commit"
TARGET = Target(of="ratio", at_least=0.9)


def main() -> None:
    report = Report("parallel", __doc__.splitlines()[0])
    with (
        report.running(),
        service(instances_here=str(max(AT_A_TIME))) as running,
        tempfile.TemporaryDirectory(prefix="raw-") as raw_dir,
        ExitStack() as stack,
    ):
        image = running.checkpoint()
        setup = stack.enter_context(running.restored_setup(image))
        report.accelerator = setup.accelerator
        raw = RawLoop(Path(raw_dir), setup)
        clients = [stack.enter_context(RunClient(running)) for _ in range(max(AT_A_TIME))]
        clients[0].run(image)
        podman, why_not = _podman.prepare()
        for count in AT_A_TIME:
            total = max(RUNS_MIN, RUNS_EACH * count)
            progress(f"{count} at a time")
            ours = _Loops(
                [partial(client.run, image) for client in clients[:count]],
                total=total,
                cpu_s=lambda: _cpu_s(running),
            )
            bare = _Loops(
                [raw.run] * count,
                total=total,
                cpu_s=lambda: sum(phases.cpu_s for phases in raw.phases),
            )
            rates = alternate(ROUNDS, ours=ours.rate, raw=bare.rate)
            report.add(
                f"{count} at a time",
                "runs/s",
                rates["ours"],
                rates["raw"],
                reference_name=RAW,
                targets=(TARGET,) if count == 2 else (),
            )
            report.add(
                f"- {count} at a time, cores at work", "cores", ours.cores, bare.cores,
                reference_name=RAW,
            )  # fmt: skip
            if podman is not None:
                pods = [rate([podman.run_and_commit] * count, total=total) for _ in range(ROUNDS)]
                report.add(
                    f"- {count} at a time, podman", "runs/s", rates["ours"], pods,
                    reference_name=f"{PODMAN} ({podman.runtime})",
                )  # fmt: skip
        if podman is None:
            report.note(f"podman is not beside it: {why_not}")
        else:
            podman.close()


class _Loops:
    """Loops side by side. `cores` is how many cores worked in each measurement, on the average."""

    def __init__(
        self, runs: Sequence[Callable[[], object]], *, total: int, cpu_s: Callable[[], float]
    ) -> None:
        self.cores: list[float] = []
        self._runs = runs
        self._total = total
        self._cpu_s = cpu_s

    def rate(self) -> float:
        """Return runs per second."""
        before = self._cpu_s()
        runs_per_s = rate(self._runs, total=self._total)
        self.cores.append((self._cpu_s() - before) / self._total * runs_per_s)
        return runs_per_s


def _cpu_s(running: Service) -> float:
    """Return the CPU time so far, with that of the last QEMUs, which counts once they are gone."""
    while running.server.qemus():
        time.sleep(GONE_POLL_S)
    return running.cpu_s()


if __name__ == "__main__":
    main()
