"""Uploaded archives: each form gives the same entries, and a hostile one is refused."""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from contree.adapters.layers.unpacking import limits, tar_archive
from contree.adapters.layers.unpacking.unpacker import ArchiveUnpacker
from contree.app.content.archives import ArchiveEntry
from contree.app.guest.microvm import FileKind
from contree.domain.errors import LayerRefused

BYTES_MAX = 4 * 1024**2
OVER = bytes(BYTES_MAX + 1)
WHEN = 1_700_000_000
TEXT = b"#!/bin/sh\n" + b"x" * 300_000
WANTED = [
    ArchiveEntry(path=b"d", kind=FileKind.DIRECTORY, mode=0o750, uid=5, gid=6, mtime_s=WHEN),
    ArchiveEntry(
        path=b"d/run", kind=FileKind.FILE, mode=0o4755, uid=5, gid=6, mtime_s=WHEN,
        size_bytes=len(TEXT),
    ),
    ArchiveEntry(
        path=b"d/l", kind=FileKind.SYMLINK, mode=0o777, uid=5, gid=6, mtime_s=WHEN,
        target=b"../anywhere",
    ),
    ArchiveEntry(path="ü".encode(), kind=FileKind.FILE, mode=0o600, uid=5, gid=6, mtime_s=WHEN),
]  # fmt: skip
HARD = ArchiveEntry(
    path=b"h", kind=FileKind.HARD_LINK, mode=0o4755, uid=5, gid=6, mtime_s=WHEN, target=b"d/run"
)


def member(entry: ArchiveEntry, type_: bytes | None = None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path.decode())
    types = {
        FileKind.FILE: tarfile.REGTYPE,
        FileKind.DIRECTORY: tarfile.DIRTYPE,
        FileKind.SYMLINK: tarfile.SYMTYPE,
        FileKind.HARD_LINK: tarfile.LNKTYPE,
    }
    info.type, info.mode, info.linkname = (
        type_ or types[entry.kind],
        entry.mode,
        entry.target.decode(),
    )
    info.uid, info.gid, info.mtime, info.size = 5, 6, WHEN, entry.size_bytes
    return info


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def plain_tar() -> bytes:
    return tar_of(
        *((member(entry), TEXT[: entry.size_bytes]) for entry in WANTED), (member(HARD), b"")
    )


def zip_of(*members: tuple[str, int, bytes], **options: Any) -> bytes:
    """Make a zip of (name, st_mode, content)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        for name, mode, content in members:
            info = zipfile.ZipInfo(name, (2023, 11, 14, 22, 13, 20))
            info.create_system, info.external_attr = 3, mode << 16
            info.compress_type = options.get("compression", zipfile.ZIP_DEFLATED)
            archive.writestr(info, content)
    return out.getvalue()


def plain_zip() -> bytes:
    return zip_of(
        ("d/", stat.S_IFDIR | 0o750, b""),
        ("d/run", stat.S_IFREG | 0o4755, TEXT),
        ("d/l", stat.S_IFLNK | 0o777, b"../anywhere"),
        ("ü", stat.S_IFREG | 0o600, b""),
    )


async def unpacked(
    place: Path, archive: bytes, *, bytes_max: int = BYTES_MAX
) -> list[tuple[ArchiveEntry, bytes]]:
    async def content() -> AsyncIterator[bytes]:
        for at in range(0, len(archive), 100_000):
            yield archive[at : at + 100_000]

    found: list[tuple[ArchiveEntry, bytes]] = []
    async for item in ArchiveUnpacker(place).entries(content(), bytes_max=bytes_max):
        if isinstance(item, ArchiveEntry):
            found.append((item, b""))
        else:
            entry, data = found.pop()
            found.append((entry, data + item))
    return found


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, zstandard.ZstdCompressor().compress],
    ids=["tar", "gzip", "zstd"],
)
async def test_a_tar_gives_its_entries(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    found = await unpacked(tmp_path, pack(plain_tar()))
    assert [entry for entry, _ in found] == [*WANTED, HARD]
    assert found[1][1] == TEXT


async def test_a_zip_gives_the_same_but_what_it_does_not_say(tmp_path: Path) -> None:
    found = await unpacked(tmp_path, plain_zip())
    assert [entry for entry, _ in found] == [replace(w, uid=None, gid=None) for w in WANTED]
    assert found[1][1] == TEXT


async def test_a_zip_of_no_unix_gets_usual_modes_and_one_of_unix_its_exact_time(
    tmp_path: Path,
) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("a/", "a/b"):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 0
            info.extra = struct.pack("<HHBi", 0x5455, 5, 1, -7) if name == "a/b" else b""
            archive.writestr(info, b"")
    (directory, _), (file, _) = await unpacked(tmp_path, out.getvalue())
    assert (directory.mode, directory.mtime_s) == (0o755, 315_532_800)
    assert (file.mode, file.mtime_s) == (0o644, -7)


async def test_names_are_made_plain_and_a_sparse_file_has_its_holes(tmp_path: Path) -> None:
    archive = tar_of(
        (member(replace(WANTED[0], path=b"./")), b""),
        (member(replace(WANTED[1], path=b"/x//./y", size_bytes=2)), b"ab"),
    )
    found = await unpacked(tmp_path, archive)
    assert [entry.path for entry, _ in found] == [b"", b"x/y"]
    sparse = member(replace(WANTED[1], path=b"s", size_bytes=5))
    sparse.pax_headers = {"GNU.sparse.map": "600000,4,700000,1", "GNU.sparse.size": "700003"}
    ((entry, data),) = await unpacked(tmp_path, tar_of((sparse, b"dataZ")))
    assert entry.size_bytes == 700_003
    assert data == bytes(600_000) + b"data" + bytes(99_996) + b"Z" + bytes(2)


def device() -> bytes:
    return tar_of((member(WANTED[3], tarfile.CHRTYPE), b""))


def encrypted() -> bytes:
    data = bytearray(zip_of(("a", stat.S_IFREG | 0o644, b"x")))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


def huge_directory() -> bytes:
    """A zip with a central directory that Python would read whole, and make objects of."""
    size = limits.ZIP_READ_BYTES_MAX + 1
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 4, 0)
    return b"PK\3\4" + bytes(size) + end


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        (lambda: tar_of((member(replace(WANTED[3], path=b"a/../../b")), b"")), r"'\.\.'"),
        (lambda: tar_of((member(replace(HARD, target=b"../b")), b"")), r"'\.\.'"),
        (device, "neither file, directory nor link"),
        (lambda: plain_tar()[:2000], "cut off"),
        (lambda: gzip.compress(plain_tar())[:-20], "gzip data is cut off"),
        (lambda: b"no archive at all" * 100, "wrong checksum"),
        (lambda: zip_of(("../b", stat.S_IFREG, b"")), r"'\.\.'"),
        (lambda: zip_of(("a", stat.S_IFIFO | 0o644, b"")), "neither file, directory nor link"),
        (lambda: zip_of(("a", stat.S_IFLNK | 0o777, b"t" * 5000)), "impossible target"),
        (lambda: zip_of(("a", stat.S_IFLNK | 0o777, b"")), "impossible target"),
        (
            lambda: zip_of(("a", stat.S_IFREG, b"x"), compression=zipfile.ZIP_LZMA),
            "neither stored nor deflated",
        ),
        (encrypted, "encrypted"),
        (lambda: plain_zip()[:-100], "zip is damaged"),
        (huge_directory, "directory is over"),
        (
            lambda: tar_of((member(replace(WANTED[1], size_bytes=BYTES_MAX + 1)), OVER)),
            "more than the 4194304 bytes of max_layer_bytes",
        ),
        (
            lambda: zip_of(*((str(n), stat.S_IFREG, bytes(BYTES_MAX // 2)) for n in range(3))),
            "more than the 4194304 bytes of max_layer_bytes",
        ),
    ],
)  # fmt: skip
async def test_a_hostile_archive_is_refused_with_what_is_wrong(
    tmp_path: Path, archive: Callable[[], bytes], problem: str
) -> None:
    with pytest.raises(LayerRefused, match=problem):
        await unpacked(tmp_path, archive())
    assert list(tmp_path.iterdir()) == []


async def test_what_follows_the_end_of_a_tar_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_archive, "STREAM_SLACK_BYTES", 1024**2)
    zeros = bytes(BYTES_MAX + 1024**2 - len(plain_tar()))
    assert len(await unpacked(tmp_path, gzip.compress(plain_tar() + zeros))) == 5
    with pytest.raises(LayerRefused, match="expands too far"):
        await unpacked(tmp_path, gzip.compress(plain_tar() + zeros + b"\0"))


async def test_entries_and_names_have_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ENTRIES_MAX", 4)
    with pytest.raises(LayerRefused, match="more than 4 entries"):
        await unpacked(tmp_path, plain_tar())
    monkeypatch.setattr(limits, "ENTRIES_MAX", 5)
    monkeypatch.setattr(limits, "NAMES_BYTES_MAX", 10)
    with pytest.raises(LayerRefused, match="names take more than 10 bytes"):
        await unpacked(tmp_path, plain_tar())


@pytest.mark.parametrize("make", [plain_tar, plain_zip])
async def test_damage_anywhere_is_refused_or_harmless(
    tmp_path: Path, make: Callable[[], bytes]
) -> None:
    """Nothing but LayerRefused comes out, whatever bytes go in."""
    whole = make()
    dice = random.Random(4)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.randrange(1, 6)):
            # Headers and directories are at both ends: most of the middle is content.
            near = dice.choice((dice.randrange(min(1500, len(whole))), -1 - dice.randrange(600)))
            damaged[near] = dice.randrange(256)
        try:
            found = await unpacked(tmp_path, bytes(damaged))
        except LayerRefused:
            continue
        assert len(found) <= len(WANTED) + 1
