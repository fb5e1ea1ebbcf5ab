"""Real memfds and real holders; what the kernel refuses is tried."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from contree.adapters.microvm.disks.sealed_file import CHUNK_BYTES, Holder, SealedFile, copy_pages
from contree.domain.errors import GuestFailure

SIZE_BYTES = 3 * CHUNK_BYTES + 100


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Data at the start, across the edge of a chunk, and at the ragged end; else a hole."""
    path = tmp_path / "ram"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
        file.write(b"start")
        file.seek(CHUNK_BYTES - 3000)
        file.write(os.urandom(9000))
        file.seek(SIZE_BYTES - 5)
        file.write(b"end..")
    return path


@pytest.fixture
def sealed(source: Path) -> SealedFile:
    return SealedFile.copy_of(source)


def read(fd: int) -> bytes:
    return os.pread(fd, SIZE_BYTES + 1, 0)


def test_a_copy_has_the_same_bytes_and_takes_no_room_for_zeros(
    source: Path, sealed: SealedFile
) -> None:
    assert read(sealed.fd) == source.read_bytes()
    assert os.fstat(sealed.fd).st_blocks * 512 == 5 * 4096
    sealed.close()


def test_the_digest_is_of_the_content_and_not_of_its_holes(
    source: Path, sealed: SealedFile, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.write_bytes(source.read_bytes())
    with (tmp_path / "copy").open("wb") as copy:
        assert copy_pages(full, copy.fileno()) == sealed.digest
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    with full.open("r+b") as file:
        file.seek(2 * CHUNK_BYTES)
        file.write(b"\1")
    with (tmp_path / "other").open("wb") as copy:
        assert copy_pages(full, copy.fileno()) != sealed.digest
    sealed.close()


def test_sizes_that_differ_in_zeros_alone_differ_in_digest(tmp_path: Path) -> None:
    digests = set()
    for size in (0, 4096, 8192, CHUNK_BYTES):
        path = tmp_path / str(size)
        path.write_bytes(bytes(size))
        file = SealedFile.copy_of(path)
        digests.add(file.digest)
        file.close()
    assert len(digests) == 4


def test_nobody_can_write_to_it_but_everybody_may_map_it_privately(sealed: SealedFile) -> None:
    before = read(sealed.fd)
    holder = Holder(sealed)
    fd = os.open(holder.path, os.O_RDWR)  # as QEMU opens it
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as private:
        private[0:5] = b"mine!"
    os.close(fd)
    assert read(sealed.fd) == before
    holder.close()
    sealed.close()


def test_the_holder_has_no_capability_and_ends_when_it_is_closed(sealed: SealedFile) -> None:
    holder = Holder(sealed)
    pid = holder.path.parent.parent
    status = dict(
        line.split(":\t", 1) for line in (pid / "status").read_text().splitlines() if ":\t" in line
    )
    assert int(status["CapPrm"], 16) == 0
    assert int(status["CapEff"], 16) == 0
    holder.close()
    assert not pid.exists()
    sealed.close()


def test_each_reader_has_an_offset_of_its_own(sealed: SealedFile) -> None:
    first, second = sealed.open_again(), sealed.open_again()
    assert os.read(first, 5) == b"start"
    assert os.read(second, 5) == b"start"
    for fd in (first, second):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
        os.close(fd)
    sealed.close()
    with pytest.raises(GuestFailure, match="given up"):
        sealed.open_again()
