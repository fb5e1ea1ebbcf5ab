"""The disk's descriptor: each part where the guest expects it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contree.adapters.microvm.agent.commands import LAYER_ROOM_BYTES
from contree.adapters.microvm.disks.layers_disk import write_layers_disk
from contree.app.images.layer_store import FilePart
from contree.domain.errors import GuestFailure

SECTOR = 512
PAGE = 4096


def extents(descriptor: Path) -> list[tuple[int, Path, int]]:
    """Return (bytes of the disk, file, offset in it) of each part, in order."""
    found = re.findall(r'^RW (\d+) FLAT "(.*)" (\d+)$', descriptor.read_text(), re.MULTILINE)
    return [(int(size) * SECTOR, Path(name), int(at) * SECTOR) for size, name, at in found]


def part(path: Path, size_bytes: int, offset_bytes: int = 0) -> FilePart:
    path.touch()
    return FilePart(path=path, offset_bytes=offset_bytes, size_bytes=size_bytes)


def test_each_image_has_its_room_behind_a_lead_of_zeros(tmp_path: Path) -> None:
    layers = [(part(tmp_path / f"{number}.sqfs", PAGE * number),) for number in (1, 2, 3)]
    (room, lead, _), *others = extents(write_layers_disk(tmp_path, layers))
    assert others == [(LAYER_ROOM_BYTES, layer.path, 0) for (layer,) in layers]
    assert room == LAYER_ROOM_BYTES
    assert set(lead.read_bytes()) == {0}


def test_the_parts_of_an_image_lie_side_by_side_and_the_last_has_the_rest(tmp_path: Path) -> None:
    mount, tar = tmp_path / "mount", tmp_path / "tar"
    image = (part(mount, PAGE), part(tar, 5 * PAGE), part(mount, 3 * PAGE, PAGE))
    _, *found = extents(write_layers_disk(tmp_path, [image, image]))
    rest = LAYER_ROOM_BYTES - 6 * PAGE
    assert found == 2 * [(PAGE, mount, 0), (5 * PAGE, tar, 0), (rest, mount, PAGE)]


def test_a_disk_of_no_layer_is_the_lead_alone(tmp_path: Path) -> None:
    assert len(extents(write_layers_disk(tmp_path, []))) == 1


def test_an_image_larger_than_its_room_is_refused(tmp_path: Path) -> None:
    small, large = part(tmp_path / "small", PAGE), part(tmp_path / "large", LAYER_ROOM_BYTES)
    with pytest.raises(GuestFailure, match="has room for 68719472640"):
        write_layers_disk(tmp_path, [(small, large)])


@pytest.mark.parametrize(("size_bytes", "offset_bytes"), [(0, 0), (512, 0), (4096, 512)])
def test_a_part_that_is_no_whole_pages_is_refused(
    tmp_path: Path, size_bytes: int, offset_bytes: int
) -> None:
    odd = part(tmp_path / "odd.sqfs", size_bytes, offset_bytes)
    with pytest.raises(GuestFailure, match=f"odd.sqfs: {size_bytes} bytes at {offset_bytes}"):
        write_layers_disk(tmp_path, [(odd,)])


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    absent = FilePart(path=tmp_path / "absent", offset_bytes=0, size_bytes=PAGE)
    with pytest.raises(GuestFailure, match="absent: No such file") as caught:
        write_layers_disk(tmp_path, [(absent,)])
    assert caught.value.retryable


def test_more_layers_than_the_agent_mounts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GuestFailure, match="201 layers"):
        write_layers_disk(tmp_path, [(part(tmp_path / "x", PAGE),)] * 201)


@pytest.mark.parametrize("name", ['qu"ote', "line\nbreak", "x" * 250 + "/" + "y" * 250])
def test_a_path_that_the_descriptor_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    with pytest.raises(GuestFailure, match="layer file"):
        write_layers_disk(tmp_path, [(part(path, PAGE),)])
