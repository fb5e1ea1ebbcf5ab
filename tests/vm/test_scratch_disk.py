"""What a command finds of the disk that it writes to: ext4 as any, and inode numbers that stay."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from contree.adapters.microvm.runner import LibvirtMicroVM
from tests.vm.conversation import Conversation
from tests.vm.fixtures import MIB, guest_spec, squash

pytestmark = pytest.mark.vm

EXACT_INODES = 1 << 53
"""From here on a double does not hold every number: Node takes two files for one."""

CHANGE = """
mkdir -p /tree/a/b /keep/new; echo x >/tree/a/b/f; ln /tree/a/b/f /tree/hard; rm /etc/motd
echo more >>/keep/lower
"""
LIST = r"""
find / \( -path /proc -o -path /sys -o -path /dev -o -path /keep/lower \) -prune -o \
    -exec stat -c '%i %d %h %n' {} + | sort -k4
"""
"""Not /keep/lower: a copied file of several squashfs layers, which have no ids, is not known again.
"""
FORGET = "sync; echo 2 >/proc/sys/vm/drop_caches"


async def test_what_is_written_later_within_a_second_is_newer(box: Conversation) -> None:
    # Read as text: busybox's `test -nt` compares whole seconds; make and bash do not.
    times = await box.sh("touch /made; usleep 20000; touch /edited; stat -c %y /made /edited")
    made, edited = times.text.splitlines()
    assert made < edited


async def test_dates_after_2038_are_kept(box: Conversation) -> None:
    done = await box.sh("TZ=UTC touch -d '2040-01-02 03:04:05' /late; TZ=UTC stat -c %y /late")
    assert done.text == "2040-01-02 03:04:05.000000000 +0000\n"


async def test_room_that_is_taken_ahead_is_no_content(
    microvm: LibvirtMicroVM, base_layer: Path
) -> None:
    async with microvm.start(guest_spec(base_layer)) as guest:
        done = await Conversation(guest).sh("fallocate -l 3M /ahead; stat -c '%s %b' /ahead")
        tar = b"".join([chunk async for chunk in guest.capture(bytes_max=MIB)])
    assert (done.text, done.stderr) == (f"{3 * MIB} {3 * MIB // 512}\n", b"")
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert [(member.name, member.size) for member in archive] == [(".", 0), ("ahead", 3 * MIB)]


async def test_inode_numbers_stay_are_exact_and_of_one_device(
    microvm: LibvirtMicroVM, base_layer: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "keep").mkdir(parents=True)
    (tree / "keep" / "upper").write_text("upper\n")
    layers = [base_layer, squash(tree, tmp_path / "upper.sqfs")]
    async with microvm.start(guest_spec(*layers)) as guest:
        talk = Conversation(guest)
        before = (await talk.sh(CHANGE + LIST)).text
        after = (await talk.sh(FORGET + LIST)).text
        counted = (await talk.sh("du -xsk / | cut -f1; du -sk /bin | cut -f1")).text.split()
    assert before == after
    entries = {name: fields for *fields, name in map(str.split, before.splitlines())}
    assert {"/", "/bin", "/bin/busybox", "/keep/new", "/keep/upper", "/tree/a/b"} < entries.keys()
    assert entries["/tree/hard"] == entries["/tree/a/b/f"]
    numbers = [int(inode) for inode, _, _ in entries.values()]
    assert max(numbers) < EXACT_INODES
    assert len(set(numbers)) == len(numbers) - 1, "but for the hard link"
    assert len({device for _, device, _ in entries.values()}) == 1
    assert int(counted[0]) > int(counted[1]) > 1000, "du -x counts lower layers"
