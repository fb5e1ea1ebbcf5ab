"""The disk read back as a guest's kernel would: table and partitions out of the extents' bytes."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.microvm.layers_disk import LAYERS_MAX, gpt, write_layers_disk
from contree.domain.errors import GuestFailure

SECTOR = 512


def partitions(disk: bytes, header_sector: int) -> list[tuple[int, int]]:
    """Return (first, last) of each partition by the header there. UEFI 2.10, section 5.3."""
    raw = disk[header_sector * SECTOR : (header_sector + 1) * SECTOR]
    signature, _, size, crc, _, here, _, first_usable, last_usable = struct.unpack_from(
        "<8sIIIIQQQQ", raw
    )
    entries_at, count, entry_size, entries_crc = struct.unpack_from("<QIII", raw, 72)
    assert signature == b"EFI PART"
    assert here == header_sector
    assert zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) == crc
    entries = disk[entries_at * SECTOR : entries_at * SECTOR + count * entry_size]
    assert zlib.crc32(entries) == entries_crc
    found = []
    for at in range(0, len(entries), entry_size):
        if entries[at : at + 16] != bytes(16):
            first, last = struct.unpack_from("<QQ", entries, at + 32)
            assert first_usable <= first <= last <= last_usable
            found.append((first, last))
    return found


@given(st.lists(st.integers(1, 40).map(lambda n: n * 8), max_size=LAYERS_MAX))
def test_both_tables_name_partitions_end_to_end(sizes: list[int]) -> None:
    head, tail = gpt(sizes)
    assert len(head) % 4096 == len(tail) % 4096 == 0
    disk = head + bytes(sum(sizes) * SECTOR) + tail
    primary = partitions(disk, 1)
    assert partitions(disk, len(disk) // SECTOR - 1) == primary
    at = len(head) // SECTOR
    for size, (first, last) in zip(sizes, primary, strict=True):
        assert (first, last - first + 1) == (at, size)
        at += size


def test_extents_are_the_files_themselves_in_order(tmp_path: Path) -> None:
    layers = []
    for number in range(3):
        layer = tmp_path / f"{number}.sqfs"
        layer.write_bytes(bytes([number]) * 4096 * (number + 1))
        layers.append(layer)
    descriptor = write_layers_disk(tmp_path, layers)
    extents = re.findall(r'^RW (\d+) FLAT "(.*)" 0$', descriptor.read_text(), re.MULTILINE)
    assert [Path(name) for _, name in extents[1:-1]] == layers
    disk = b"".join(Path(name).read_bytes()[: int(size) * SECTOR] for size, name in extents)
    for number, (first, last) in enumerate(partitions(disk, 1)):
        part = disk[first * SECTOR : (last + 1) * SECTOR]
        assert part == layers[number].read_bytes()


def test_a_disk_of_no_layer_is_a_table_alone(tmp_path: Path) -> None:
    assert write_layers_disk(tmp_path, []).read_text().count("FLAT") == 2


@pytest.mark.parametrize("size_bytes", [0, 512, 4095])
def test_a_file_that_is_no_whole_pages_is_refused(tmp_path: Path, size_bytes: int) -> None:
    odd = tmp_path / "odd.sqfs"
    odd.write_bytes(bytes(size_bytes))
    with pytest.raises(GuestFailure, match=f"odd.sqfs has {size_bytes} bytes"):
        write_layers_disk(tmp_path, [odd])


def test_more_layers_than_the_agent_mounts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GuestFailure, match="201 layers"):
        write_layers_disk(tmp_path, [tmp_path / "x"] * 201)


@pytest.mark.parametrize("name", ['qu"ote', "line\nbreak", "x" * 250 + "/" + "y" * 250])
def test_a_path_that_the_descriptor_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(4096))
    with pytest.raises(GuestFailure, match="layer file"):
        write_layers_disk(tmp_path, [path])
