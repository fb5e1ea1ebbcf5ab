"""Does a run cost the same at the thousandth checkpoint as at the first?

A chain of small deltas, made as runs leave them (the layer store's `add_delta`, then an image in
the log) but without a guest; `true` is then run at some depths in turn. Beside the time: how many
squashfs files a guest mounts, what the chain takes on disk beside its deltas, and how many bytes
of the log record one of its images.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid5

from bench._measure import Report, Target, progress
from bench._runs import RunClient
from bench._service import Service, service
from contree.adapters.postgres.transcoder import event_mapper
from contree.bootstrap import Core
from contree.domain.context import Context
from contree.domain.image import Image
from contree.domain.project import NAMESPACE

DEPTHS = (1, 10, 100, 1000)
RECORDED_DEPTHS = (1, 1000, 10_000)
ROUNDS = 9
FILE_BYTES = 2000
KIB = 1024
BYTES_MAX = 1024**2
END_OF_TAR = bytes(1024)
FIRST = f"depth {DEPTHS[0]}"


def main() -> None:
    report = Report("depth", __doc__.splitlines()[0])
    with report.running(), service() as running:
        base = UUID(running.checkpoint())
        report.accelerator = running.accelerator
        layers_dir = running.settings.data_dir / "layers"
        before = _disk_bytes(layers_dir)
        images = running.with_core(lambda core: _chain(core, base))
        stored = _disk_bytes(layers_dir) - before
        times = _times(running, {depth: str(images[depth - 1].id) for depth in DEPTHS})
        for depth in DEPTHS:
            report.add(
                f"run at depth {depth}",
                "ms",
                times[depth],
                None if depth == DEPTHS[0] else times[DEPTHS[0]],
                reference_name="" if depth == DEPTHS[0] else FIRST,
                targets=(Target(of="ratio", at_most=1.1),) if depth == DEPTHS[-1] else (),
            )
        plans = running.with_core(lambda core: _plans(core, images))
        for depth in DEPTHS:
            report.add(f"- mounts at depth {depth}", "files", [plans[depth]])
        recorded = _recorded_bytes(images[0])
        for depth in RECORDED_DEPTHS:
            report.add(
                f"- log bytes of an image at depth {depth}",
                "bytes",
                [recorded[depth]],
                None if depth == 1 else [recorded[1]],
                reference_name="" if depth == 1 else FIRST,
                targets=() if depth == 1 else (Target(of="ratio", at_most=1.05),),
            )
        deltas = sum(image.size_bytes for image in images)
        report.add(
            f"on disk, {DEPTHS[-1]} layers",
            "KiB a layer",
            [stored / DEPTHS[-1] / KIB],
            [deltas / DEPTHS[-1] / KIB],
            reference_name="the deltas' own tars",
        )
        report.note("on disk: tar, index and squashfs of each layer, and the merged ones")


def _times(running: Service, images: dict[int, str]) -> dict[int, list[float]]:
    """Return the milliseconds of runs by depth, the depths in turn; the first round is not kept."""
    times: dict[int, list[float]] = {depth: [] for depth in images}
    with RunClient(running) as client:
        for number in range(ROUNDS + 1):
            for depth, image in images.items():
                progress(f"{number}/{ROUNDS} depth {depth}")
                took_s = client.run(image)
                if number:
                    times[depth].append(took_s * 1000)
    return times


async def _chain(core: Core, base: UUID) -> list[Image]:
    """Return the images of a chain on `base`, each a delta deeper."""
    images: list[Image] = []
    below = await core.log.load(Image, base)
    assert below is not None
    stack = list(await core.images.stack(below.project_id, base))
    for number in range(DEPTHS[-1]):
        progress(f"layer {number + 1}/{DEPTHS[-1]}")
        layer = await core.layers.add_delta(_delta(number), below=stack, bytes_max=BYTES_MAX)
        assert layer is not None
        stack.append(layer.diff_id)
        below = _left_on(below, layer.diff_id, size_bytes=layer.size_bytes)
        await core.log.append(below)
        images.append(below)
    return images


def _left_on(below: Image, diff_id: str, *, size_bytes: int) -> Image:
    """Return what a run on `below` leaves behind, not yet recorded."""
    return below.committed(
        Context(
            actor="bench", project_id=below.project_id, request_id="bench", at=datetime.now(UTC)
        ),
        operation_id=uuid5(NAMESPACE, f"bench depth {below.depth}"),
        layer=diff_id,
        workdir="/",
        size_bytes=size_bytes,
    )


def _recorded_bytes(first: Image) -> dict[int, float]:
    """Return the bytes of an image's event by depth; a chain of equal layers, nowhere recorded."""
    mapper, found, image = event_mapper(), dict[int, float](), first
    for depth in range(1, RECORDED_DEPTHS[-1] + 1):
        image = _left_on(image, first.own_layers[0], size_bytes=first.size_bytes)
        (event,) = image.collect_events()
        if depth in RECORDED_DEPTHS:
            found[depth] = float(len(mapper.to_stored_event(event).state))
    return found


async def _delta(number: int) -> AsyncIterator[bytes]:
    """What a guest would send that wrote one file of its own and one that is always written."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("./", "chain/"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name in (f"chain/{number:04}", "last"):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = FILE_BYTES, 0o644
            tar.addfile(entry, io.BytesIO(b"%04d" % number * (FILE_BYTES // 4)))
        end = tar.offset
    yield out.getvalue()[:end] + END_OF_TAR  # a guest does not pad further


async def _plans(core: Core, images: list[Image]) -> dict[int, float]:
    plans: dict[int, float] = {}
    for depth in DEPTHS:
        image = images[depth - 1]
        stack = await core.images.stack(image.project_id, image.id)
        plans[depth] = float(len((await core.layers.mount_plan(stack)).squashfs))
    return plans


def _disk_bytes(directory: Path) -> int:
    """What the files below take on disk; stat(2) counts blocks of 512 bytes."""
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
