"""How long does the first run take after the service has started?

The template is on disk from an earlier start; before each start the kernel is asked to drop what it
has cached of our files. POST to completion of `true`, from the moment that the service says it is
ready, beside the second run; below it, how long it took to be ready, and both together: from the
start of `contreed serve` to the completion of the first run.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench._measure import Report, Target, progress
from bench._runs import RunClient
from bench._service import service

ROUNDS = 5
TARGET = Target(of="ours", at_most=1000)


def main() -> None:
    report = Report("first_run", __doc__.splitlines()[0])
    first, second, started, whole = [], [], [], []
    with report.running(), service() as running:
        image = running.checkpoint()
        report.accelerator = running.raw_setup(image).accelerator
        for number in range(ROUNDS):
            progress(f"{number + 1}/{ROUNDS}")
            running.server.stop()
            drop_cached(running.settings.data_dir)
            began = time.monotonic()
            running.server.start()
            started.append((time.monotonic() - began) * 1000)
            with RunClient(running) as client:
                first.append(client.run(image) * 1000)
                whole.append((time.monotonic() - began) * 1000)
                second.append(client.run(image) * 1000)
        report.add(
            "first run, from ready",
            "ms",
            first,
            second,
            reference_name="the run after it",
            targets=(TARGET,),
        )
        report.add("- start of serve until ready", "ms", started)
        report.add("- start of serve until the first run's completion", "ms", whole)
        report.note("cached pages were dropped with posix_fadvise: advice, and only for our files")


def drop_cached(directory: Path) -> None:
    """Ask the kernel to forget the pages of every file below `directory`; fadvise(2)."""
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(fd)  # only clean pages can go
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


if __name__ == "__main__":
    main()
