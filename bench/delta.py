"""A command wrote 200 MB: how long after its exit is the image usable, beside pulling the tar?

Ours ends with the commit that makes the image; layer, index and mountable squashfs are on disk by
then. The reference is a bare QEMU that restores the same template and streams the same tar to a
file, which it leaves in the page cache. Both clocks start when the command has exited.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

from bench._commit import commit_window
from bench._measure import Report, Target, alternate
from bench._raw_guest import RawSetup, raw_guest
from bench._service import Service, service
from contree.adapters.layers.store import LayerDirectory

WRITTEN_MB = 200
COMMAND = f"dd if=/dev/urandom of=/written bs=1000000 count={WRITTEN_MB} 2>/dev/null; sync"
ROUNDS = 5
CHUNK_BYTES = 1024**2
TARGET = Target(of="ratio", at_most=1.3)
PHASES = re.compile(
    r"delta of (\d+) bytes: received in ([\d.]+) s, mountable and on disk ([\d.]+) s later"
)
RAW = "the same tar from a bare QEMU to a file"


def main() -> None:
    report = Report("delta", __doc__.splitlines()[0])
    with (
        report.running(),
        service(log_level="DEBUG") as running,
        tempfile.TemporaryDirectory(prefix="raw-") as directory,
    ):
        image = running.checkpoint()
        tar = Path(directory) / "captured.tar"
        with running.restored_setup(image) as setup:
            report.accelerator = setup.accelerator
            samples = alternate(
                ROUNDS,
                ours=lambda: _ours(running, image),
                raw=lambda: _raw(tar, setup),
                store=lambda: _store(tar, running.settings.data_dir / "bench-layers"),
            )
        report.add(
            f"{WRITTEN_MB} MB, exit to usable",
            "s",
            samples["ours"],
            samples["raw"],
            reference_name=RAW,
            targets=(TARGET,),
        )
        _add_phases(report, running)
        report.add("storing with no guest", "s", samples["store"])
        report.note("storing: digests, index and squashfs of the tar, read from a file, and fsync")


def _add_phases(report: Report, running: Service) -> None:
    """Add what the layer store says of each delta; what is left is before, and recording it."""
    found = [
        [float(part) for part in match]
        for match in PHASES.findall(running.server.log_text)
        if int(match[0]) > WRITTEN_MB * 1_000_000
    ]
    report.add("- receiving, hashing, writing and indexing", "s", [one[1] for one in found])
    report.add("- squashfs and fsync after that", "s", [one[2] for one in found])


def _ours(running: Service, image: str) -> float:
    """Return the seconds from the exit of the command to the commit of the image."""
    operation = UUID(running.api.run(image, COMMAND).want_exit().uuid)

    exited, committed = running.with_core(lambda core: commit_window(core, operation))
    return committed - exited


def _raw(tar: Path, setup: RawSetup) -> float:
    """Return the seconds from the exit of the command to the whole tar in a file."""
    with (
        tempfile.TemporaryDirectory(dir=tar.parent) as private,
        raw_guest(Path(private), setup) as guest,
        tar.open("wb", buffering=0) as target,
    ):
        guest.start()
        assert guest.run(b"sh", b"-c", COMMAND.encode()) == 0
        size_bytes = guest.capture(target.write)
        assert size_bytes > WRITTEN_MB * 1_000_000
        return guest.phases.captured_s - guest.phases.exited_s


def _store(tar: Path, root: Path) -> float:
    """Return the seconds that the layer store takes for a tar which is there already."""

    async def chunks() -> AsyncIterator[bytes]:
        with tar.open("rb", buffering=0) as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece

    async def add() -> None:
        layer = await layers.add_delta(chunks(), below=(), bytes_max=2 * tar.stat().st_size)
        assert layer is not None

    layers = LayerDirectory(root)
    began = time.monotonic()
    try:
        asyncio.run(add())
        return time.monotonic() - began
    finally:
        layers.close()
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
