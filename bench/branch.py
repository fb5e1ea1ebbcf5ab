"""What do a hundred branches of one checkpoint cost beside a hundred times the CPU of one run?

All are asked for at once and write a file each. The reference is what the cores could do if a run
cost its CPU time and nothing else: 100 x CPU / cores. Nothing is copied for a branch: beside the
time, the bytes that a branch leaves on disk, next to those of the checkpoint itself.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from uuid import UUID

from bench._measure import Report, Target, progress
from bench._runs import RunClient
from bench._service import Service, service
from contree.bootstrap import Core

BRANCHES = 100
ROUNDS = 2
SINGLE_RUNS = 10
CHECKPOINT_MB = 50
KIB = 1024
COMMAND = "dd if=/dev/urandom of=/large bs=1000000 count={} 2>/dev/null"


def main() -> None:
    report = Report("branch", __doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    with report.running(), service() as running:
        base = running.checkpoint()
        report.accelerator = running.accelerator
        image = running.api.run(base, COMMAND.format(CHECKPOINT_MB)).want_exit().image
        walls, ideals, cpus, grown = [], [], [], []
        for number in range(ROUNDS):
            single = _single_cpu_s(running, image, number)
            before, cpu_before = _disk_bytes(running.settings.data_dir), running.cpu_s()
            walls.append(_branch(running, image, number))
            _settle(running)
            cpus.append((running.cpu_s() - cpu_before) * 1000 / BRANCHES)
            ideals.append(single * BRANCHES / cores)
            grown.append((_disk_bytes(running.settings.data_dir) - before) / BRANCHES / KIB)
        report.add(
            f"{BRANCHES} runs from one checkpoint",
            "s",
            walls,
            ideals,
            reference_name=f"{BRANCHES} x CPU time of one run alone / {cores} cores",
            targets=(Target(of="ratio", at_most=1.1),),
        )
        report.add(
            "- CPU time of a branch",
            "ms",
            cpus,
            [ideal * 1000 * cores / BRANCHES for ideal in ideals],
            reference_name="of one run alone",
        )
        size_kib = running.with_core(lambda core: _size_kib(running, core, image))
        report.add(
            "written for a branch, all told",
            "KiB",
            grown,
            [size_kib],
            reference_name="the checkpoint that it starts from",
        )
        report.note("written: growth of the whole data directory, log and journal included")


def _single_cpu_s(running: Service, image: str, number: int) -> float:
    """Return the CPU time of a run when no other runs."""
    progress("single runs")
    _settle(running)
    before = running.cpu_s()
    with RunClient(running) as client:
        for run in range(SINGLE_RUNS):
            client.run(image, f"echo {number} {run} >/single")
    _settle(running)
    return (running.cpu_s() - before) / SINGLE_RUNS


def _branch(running: Service, image: str, number: int) -> float:
    """Return the seconds from the first POST until the last of all branches has ended."""
    progress("branches")
    began = time.monotonic()
    asked = [
        running.api.spawn(image, f"echo {number} {branch} >/branch") for branch in range(BRANCHES)
    ]
    images = {running.api.wait(one, within_s=600)["result_image_uuid"] for one in asked}
    took_s = time.monotonic() - began
    assert len(images) == BRANCHES
    return took_s


def _settle(running: Service) -> None:
    """Wait until the last QEMU is gone, whose time counts once it is reaped."""
    while running.server.qemus():
        time.sleep(0.05)


async def _size_kib(running: Service, core: Core, image: str) -> float:
    layers = await core.images.stack(await running.project_id(core), UUID(image))
    plan = await core.layers.mount_plan(layers)
    return sum(part.size_bytes for squashfs in plan.squashfs for part in squashfs) / KIB


def _disk_bytes(directory: Path) -> int:
    """What the files below take on disk; stat(2) counts blocks of 512 bytes."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512 if path.is_file() else 0
        except FileNotFoundError:
            continue  # of PostgreSQL, for a moment
    return total


if __name__ == "__main__":
    main()
