"""Files and archives of gigabytes leave the API in a memory that does not grow with them."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable
from tarfile import PAX_FORMAT, TarInfo
from uuid import UUID

import pytest_asyncio

from contree import bootstrap
from contree.bootstrap import Core
from contree.config import Settings
from tests.acceptance.api import Api
from tests.support.images import record_image
from tests.support.layer_tars import directory, guest_bytes, root, sparse
from tests.support.memory import PeakGrowth
from tests.support.server import RunningServer

MIB = 1024**2
FILE_BYTES = 2 * 1024 * MIB
GROWTH_MIB_MAX = 32
PIECE = bytes(range(256)) * 4096
GZIP_WINDOW_BITS = 31
SPARSE_TAIL = b"the end"
TAR_END = bytes(1024)


@pytest_asyncio.fixture
async def image(server: RunningServer, api: Api) -> UUID:
    """`/large/dense` whole and `/large/sparse` nearly all hole, each of FILE_BYTES."""
    settings = Settings(data_dir=server.data_dir)

    async def guest_stream() -> AsyncIterator[bytes]:
        yield guest_bytes([root(), directory("large")])[: -len(TAR_END)]
        info = TarInfo("large/dense")
        info.size = FILE_BYTES
        yield info.tobuf(PAX_FORMAT)
        for _ in range(FILE_BYTES // len(PIECE)):
            yield PIECE
        at = FILE_BYTES - len(SPARSE_TAIL)
        yield guest_bytes([sparse("large/sparse", [(at, SPARSE_TAIL)], FILE_BYTES)])

    async with bootstrap.core(settings, bootstrap.running_database(settings)) as core:
        layer = await core.layers.add_delta(guest_stream(), below=[], bytes_max=2 * FILE_BYTES)
        assert layer is not None
        project_id = UUID(api.get("/whoami")["token_uuid"])
        return await record_image(core, await _project_of(core, project_id), [layer])


async def _project_of(core: Core, token_id: UUID) -> UUID:
    [project_id] = [t.project_id for t in await core.tokens.list() if t.token_id == token_id]
    return project_id


def test_two_gigabytes_are_downloaded_and_archived_in_constant_memory(
    server: RunningServer, api: Api, image: UUID
) -> None:
    grown = PeakGrowth(server.pid)
    for name, tail in (("dense", PIECE[-7:]), ("sparse", SPARSE_TAIL)):
        size_bytes, last = _read(api, f"/inspect/{image}/download?path=/large/{name}", bytes)
        assert (size_bytes, last[-7:]) == (FILE_BYTES, tail)
    unpacked = zlib.decompressobj(GZIP_WINDOW_BITS)
    archive = f"/inspect/{image}/archive?path=/large/dense"
    size_bytes, _ = _read(api, archive, unpacked.decompress, coding="gzip")
    assert unpacked.eof
    assert size_bytes > FILE_BYTES
    assert grown.mib < GROWTH_MIB_MAX


def _read(
    api: Api, path: str, unpack: Callable[[bytes], bytes], *, coding: str = "identity"
) -> tuple[int, bytes]:
    """Return how many bytes came, unpacked, and the last piece of them."""
    size_bytes, last = 0, b""
    with api.http.stream("GET", path, headers={"Accept-Encoding": coding}) as answer:
        assert answer.status_code == 200
        assert answer.headers.get("Content-Encoding", "identity") == coding
        for piece in answer.iter_raw():
            data = unpack(piece)
            size_bytes += len(data)
            last = data or last
    return size_bytes, last
