"""Builders of layer tars with Python's `tarfile`: not the implementation that is tested."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zstandard

TAR = "application/vnd.oci.image.layer.v1.tar"
TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
TAR_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OPAQUE_XATTR = "trusted.overlay.opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A tar member; `xattrs` values and names are text with surrogateescape."""

    name: str
    type: bytes = tarfile.REGTYPE
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, str] = field(default_factory=dict)
    pax: dict[str, str] = field(default_factory=dict)

    def info(self) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self.name)
        info.type, info.mode, info.uid, info.gid = self.type, self.mode, self.uid, self.gid
        info.mtime, info.linkname, info.size = self.mtime, self.link, len(self.data)
        info.devmajor, info.devminor = self.device
        info.pax_headers = self.pax | {f"SCHILY.xattr.{k}": v for k, v in self.xattrs.items()}
        return info


def file(name: str, data: bytes = b"", **more: Any) -> Member:
    return replace(Member(name=name, data=data), **more)


def directory(name: str, **more: Any) -> Member:
    return replace(Member(name=name, type=tarfile.DIRTYPE, mode=0o755), **more)


def symlink(name: str, target: str, **more: Any) -> Member:
    return replace(Member(name=name, type=tarfile.SYMTYPE, link=target, mode=0o777), **more)


def hard_link(name: str, target: str, **more: Any) -> Member:
    return replace(Member(name=name, type=tarfile.LNKTYPE, link=target), **more)


def device(name: str, major: int, minor: int, **more: Any) -> Member:
    return replace(Member(name=name, type=tarfile.CHRTYPE, device=(major, minor)), **more)


def whiteout(name: str) -> Member:
    """As a guest sends it."""
    return Member(name=name, type=tarfile.CHRTYPE, mode=0)


def root(**more: Any) -> Member:
    return directory("./", **more)


def opaque(name: str, **more: Any) -> Member:
    return directory(name, xattrs={OPAQUE_XATTR: "y"}, **more)


def sparse(name: str, segments: list[tuple[int, bytes]], size: int) -> Member:
    """A GNU 1.0 sparse file."""
    pairs = [(offset, len(data)) for offset, data in segments] + [(size, 0)]
    text = f"{len(pairs)}\n" + "".join(f"{offset}\n{length}\n" for offset, length in pairs)
    padded = text.encode().ljust(-(-len(text) // 512) * 512, b"\0")
    pax = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    data = padded + b"".join(data for _, data in segments)
    return Member(name=f"GNUSparseFile.0/{name}", data=data, pax=pax)


def tar_bytes(members: Iterable[Member], *, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002 - tarfile's
    """A tar as container tools make it, padded to its record size."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for member in members:
            archive.addfile(member.info(), io.BytesIO(member.data) if member.data else None)
    return stream.getvalue()


def guest_bytes(members: Iterable[Member]) -> bytes:
    """A stream as the agent sends it: ends with two zero blocks and not more."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            archive.addfile(member.info(), io.BytesIO(member.data) if member.data else None)
        end = archive.offset
    return stream.getvalue()[:end] + bytes(1024)


def diff_id(tar: bytes) -> str:
    return "sha256:" + hashlib.sha256(tar).hexdigest()


def blob(directory: Path, tar: bytes, media_type: str = TAR) -> Path:
    """Write `tar` compressed as `media_type` says."""
    if media_type in (TAR_GZIP, DOCKER_GZIP):
        packed = gzip.compress(tar, compresslevel=1)
    elif media_type == TAR_ZSTD:
        packed = zstandard.compress(tar)
    else:
        packed = tar
    path = directory / f"blob-{hashlib.sha256(packed).hexdigest()[:16]}"
    path.write_bytes(packed)
    return path


async def stream_of(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    """Chunks of an odd size, so that no boundary falls where a block's does."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def collected(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])
