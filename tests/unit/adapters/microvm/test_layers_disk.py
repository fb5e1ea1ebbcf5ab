"""The disk's descriptor: each file where the guest expects its layer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contree.adapters.microvm.commands import LAYER_ROOM_BYTES
from contree.adapters.microvm.layers_disk import write_layers_disk
from contree.domain.errors import GuestFailure

SECTOR = 512


def extents(descriptor: Path) -> list[tuple[int, Path]]:
    """Return (bytes of the disk, file) of each part, in order."""
    found = re.findall(r'^RW (\d+) FLAT "(.*)" 0$', descriptor.read_text(), re.MULTILINE)
    return [(int(sectors) * SECTOR, Path(name)) for sectors, name in found]


def test_each_file_has_its_room_behind_a_lead_of_zeros(tmp_path: Path) -> None:
    layers = []
    for number in range(3):
        layer = tmp_path / f"{number}.sqfs"
        layer.write_bytes(bytes([number]) * 4096 * (number + 1))
        layers.append(layer)
    (room, lead), *others = extents(write_layers_disk(tmp_path, layers))
    assert others == [(LAYER_ROOM_BYTES, layer) for layer in layers]
    assert room == LAYER_ROOM_BYTES
    assert set(lead.read_bytes()) == {0}


def test_a_disk_of_no_layer_is_the_lead_alone(tmp_path: Path) -> None:
    assert len(extents(write_layers_disk(tmp_path, []))) == 1


def test_a_file_larger_than_its_room_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.sqfs"
    with large.open("wb") as file:
        file.truncate(LAYER_ROOM_BYTES + 4096)
    with pytest.raises(GuestFailure, match="has room for 68719476736"):
        write_layers_disk(tmp_path, [large])


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
