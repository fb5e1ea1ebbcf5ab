"""How fast are files of an image read without a VM, at 100,000 files in 20 layers?

The worst shape for a listing: every directory has files in every layer. Listings go beside
os.scandir + stat of the same directories unpacked, downloads beside sendfile(2) of the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from bench._bare_servers import SPAN_HEADER, bare_server
from bench._http_client import Connection, request_bytes
from bench._measure import Report, Target, progress
from bench._service import Service, service
from contree.app.images.layer_store import Layer
from contree.bootstrap import Core

LAYERS = 20
DIRECTORIES = 1000
FILES_A_DIRECTORY = 100
LISTED_DIRECTORIES = 200
LIST_ROUNDS = 5
FILE_BYTES = 40
LARGE_BYTES = 256 * 1024**2
LARGE_PATH = "large/file"
DOWNLOAD_ROUNDS = 9
SEED = 2
MIB = 1024**2
TAR_TYPE = "application/vnd.oci.image.layer.v1.tar"


def main() -> None:
    report = Report("inspect", __doc__.splitlines()[0])
    with (
        report.running(),
        service() as running,
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
    ):
        chosen = random.Random(SEED).sample(range(DIRECTORIES), LISTED_DIRECTORIES)
        began = time.monotonic()
        image_id, top_tar, offset = running.with_core(
            lambda core: _store_image(running, core, Path(directory))
        )
        stored_s = time.monotonic() - began
        unpacked = Path(directory) / "unpacked"
        _unpack(unpacked, chosen)
        port = urlsplit(running.url).port
        assert port is not None
        with Connection(port) as end:
            _add_lists(report, running, end, image_id, unpacked, chosen)
            with bare_server("file", str(top_tar)) as bare, Connection(bare.port) as bare_end:
                span = {SPAN_HEADER.decode().strip(": "): f"{offset} {LARGE_BYTES}"}
                _add_downloads(report, running, image_id, (end, bare_end), span)
        report.note(f"writing, storing and indexing the layers took {stored_s:.1f} s")


def _add_lists(
    report: Report,
    running: Service,
    end: Connection,
    image_id: UUID,
    unpacked: Path,
    chosen: list[int],
) -> None:
    requests = [
        request_bytes(f"/v1/inspect/{image_id}/list?path=/d{n}", running.authorization)
        for n in chosen
    ]
    ours: list[float] = []
    theirs: list[float] = []
    progress("list")
    for number in range(LIST_ROUNDS + 1):
        our_round = [_ms(lambda r=request: end.get(r)) for request in requests]
        their_round = [_ms(lambda n=n: _scan(unpacked / f"d{n}")) for n in chosen]
        if number:  # the first is for the caches
            ours += our_round
            theirs += their_round
    report.add(
        f"list, {FILES_A_DIRECTORY} entries of {LAYERS} layers, over HTTP",
        "ms",
        ours,
        theirs,
        reference_name="os.scandir + stat in process",
        targets=(Target(of="ours", at_most=3),),
    )


def _add_downloads(
    report: Report,
    running: Service,
    image_id: UUID,
    ends: tuple[Connection, Connection],
    span: dict[str, str],
) -> None:
    path = f"/v1/inspect/{image_id}/download?path=/{LARGE_PATH}"
    requests = (request_bytes(path, running.authorization), request_bytes("/", span))
    rates: tuple[list[float], list[float]] = ([], [])
    progress("download")
    for number in range(DOWNLOAD_ROUNDS + 1):
        for end, request, samples in zip(ends, requests, rates, strict=True):
            began = time.perf_counter()
            assert end.get(request) == LARGE_BYTES
            if number:
                samples.append(LARGE_BYTES / 1e6 / (time.perf_counter() - began))
    report.add(
        f"download of {LARGE_BYTES // MIB} MiB",
        "MB/s",
        *rates,
        reference_name="sendfile of the same bytes",
        targets=(Target(of="ratio", at_least=0.8),),
    )


async def _store_image(running: Service, core: Core, directory: Path) -> tuple[UUID, Path, int]:
    """Store the layers as an import does and record the image.

    Returns its id, and where the large file's bytes lie: the stored tar and the offset in it.
    """
    layers: list[Layer] = []
    for number in range(LAYERS):
        progress(f"layer {number + 1}/{LAYERS}")
        tar = directory / f"{number}.tar"
        _write_layer(tar, number)
        with tar.open("rb") as file:
            diff_id = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        layers.append(await core.layers.add_imported(tar, diff_id=diff_id))
        tar.unlink()
    image_id = await running.record_image(core, layers)
    content = await core.image_files.open([layer.diff_id for layer in layers], f"/{LARGE_PATH}")
    assert content.source is not None
    return image_id, content.source, content.offset


def _names(layer: int) -> range:
    """The numbers of the files that a layer has in every directory."""
    share = FILES_A_DIRECTORY // LAYERS
    return range(layer * share, (layer + 1) * share)


def _write_layer(path: Path, layer: int) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for directory in range(DIRECTORIES):
            entry = tarfile.TarInfo(f"d{directory}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
            for number in _names(layer):
                _add_file(tar, f"d{directory}/file-{number:03}", os.urandom(FILE_BYTES))
        if layer == LAYERS - 1:
            _add_file(tar, LARGE_PATH, os.urandom(LARGE_BYTES))


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _unpack(root: Path, directories: list[int]) -> None:
    for directory in directories:
        (root / f"d{directory}").mkdir(parents=True)
        for number in range(FILES_A_DIRECTORY):
            (root / f"d{directory}/file-{number:03}").write_bytes(bytes(FILE_BYTES))


def _scan(directory: Path) -> None:
    with os.scandir(directory) as entries:
        listed = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    assert len(listed) == FILES_A_DIRECTORY


def _ms(work: object) -> float:
    assert callable(work)
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
