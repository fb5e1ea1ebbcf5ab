"""A real guest on an image of three hundred layers, each made as a store makes them."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from contree.adapters.layers.mounts.plans import MOUNTS_MAX, MOUNTS_WANTED
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.microvm.disks.layers_disk import LAYERS_MAX
from contree.adapters.microvm.runner import LibvirtMicroVM
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, hard_link
from tests.vm.conversation import Conversation
from tests.vm.fixtures import MIB, guest_spec

pytestmark = pytest.mark.vm

DEPTH = 300
OCI_TAR = "application/vnd.oci.image.layer.v1.tar"

READ = """
cat /top
ls /d | wc -l; cat /d/7 /d/299
ls -a /anew; stat -c %a /anew
[ -e /gone/file ] || echo gone
[ /links/a -ef /links/b ] && cat /links/b
stat -c '%a %u' /kept
"""

SEEN = """\
299
150
7
299
.
..
fresh
755
gone
linked
750 7
"""


async def imported(store: LayerDirectory, blob: Path) -> str:
    diff_id = f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}"
    await store.add_imported(blob, diff_id=diff_id)
    blob.unlink()
    return diff_id


def members(number: int) -> list[tars.Member]:
    """The layer `number`: odd names stay, even ones are removed by the next layer."""
    found = [file("top", b"%d\n" % number), directory("d"), file(f"d/{number}", b"%d\n" % number)]
    if number and number % 2:
        found.append(file(f"d/.wh.{number - 1}"))
    if number == 3:
        found += [directory("anew", mode=0o700), file("anew/stale")]
        found += [directory("kept", mode=0o750, uid=7)]
    if number == 150:
        found += [file(".wh.anew"), file("gone/.wh.file"), file("kept/inner")]
        found += [directory("links"), file("links/a", b"linked\n"), hard_link("links/b", "links/a")]
    if number == 151:
        found += [directory("anew"), file("anew/fresh")]
    return found


async def test_three_hundred_layers_run_as_a_short_plan_and_can_be_built_upon(
    microvm: LibvirtMicroVM, base_layer: Path, tmp_path: Path
) -> None:
    store = LayerDirectory(tmp_path / "layers")
    try:
        blob = tmp_path / "base.tar"
        with tarfile.open(blob, "w") as archive:
            archive.add(base_layer.with_suffix(""), arcname=".")
        layers = [await imported(store, blob)]
        for number in range(DEPTH):
            blob.write_bytes(tars.tar_bytes(members(number)))
            layers.append(await imported(store, blob))
        plan = await store.mount_plan(layers)
        assert len(plan.squashfs) <= MOUNTS_MAX < LAYERS_MAX < DEPTH
        async with microvm.start(guest_spec(*plan.squashfs)) as guest:
            talk = Conversation(guest)
            first = await talk.sh(READ)
            assert (await talk.sh("rm -r /d/7 /links; echo new > /d/new")).code == 0
            delta = await store.add_delta(
                guest.capture(bytes_max=64 * MIB), below=layers, bytes_max=64 * MIB
            )
        assert (first.text, first.stderr) == (SEEN, b"")
        assert delta is not None
        store.wait_for_merges()
        plan = await store.mount_plan([*layers, delta.diff_id])
        assert len(plan.squashfs) <= MOUNTS_WANTED
        async with microvm.start(guest_spec(*plan.squashfs)) as guest:
            after = await Conversation(guest).sh("ls /d | wc -l; cat /d/new; ls /links; cat /top")
        assert after.text == "150\nnew\n299\n"
        assert b"/links" in after.stderr
    finally:
        store.close()
