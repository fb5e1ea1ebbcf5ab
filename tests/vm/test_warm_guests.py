"""Guests that have waited for their run: no two alike, and none different from a fresh clone."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from contree.adapters.microvm.disks.scratch_disk import bucket_mib
from contree.adapters.microvm.hypervisor.qemu_process import qemu_pids
from contree.adapters.microvm.runner import LibvirtMicroVM
from contree.app.guest.microvm import GuestSpec, Origin
from tests.vm.conversation import Conversation
from tests.vm.fixtures import LAYER_BYTES_MAX, MIB, guest_spec, squash

pytestmark = pytest.mark.vm

CLOCK_SLACK_S = 1.0  # `date` has whole seconds
WAITED_S = 2.0

IDENTITY = (
    "cat /proc/sys/kernel/random/boot_id; hostname; head -c 32 /dev/urandom | sha256sum; date +%s; "
    "cat /which"
)
# Process numbers, mounts, file systems, devices, and what lies outside of the workload's root.
# The kernel makes kworkers when it likes: process numbers are told as if there were none. A mount
# of ext4 makes one more thread, which ends when it likes.
SURROUNDINGS = """
cat /proc/self/mountinfo; cat /proc/1/mountinfo
stat -c '%n %i %d %a %u %g' / /* /dev/*; df; df -i; hostname; ls /sys/block; cat /proc/partitions
find /proc/1/root/s /proc/1/root/l -maxdepth 4 | sort
ls /proc/1/fd
ps -o pid,comm | awk '/kworker/ {made++; next} /ext4lazyinit/ {next} {print $1 - made, $2}'
"""


@pytest.fixture
async def warm(microvm: LibvirtMicroVM) -> AsyncIterator[LibvirtMicroVM]:
    """Two guests wait."""
    await waiting(microvm, 2)
    yield microvm
    microvm.keep_waiting(0, fill=False)


async def waiting(microvm: LibvirtMicroVM, count: int) -> None:
    microvm.keep_waiting(count, fill=True)
    await microvm.warm.settled()
    assert len(microvm.warm.waiting) == count


@pytest.fixture
def image(base_layer: Path, tmp_path: Path) -> Callable[[str], list[Path]]:
    """Makes an image of base and a layer whose /which is its name."""

    def make(name: str) -> list[Path]:
        tree = tmp_path / name
        tree.mkdir()
        (tree / "which").write_text(name)
        return [base_layer, squash(tree, tmp_path / f"{name}.sqfs")]

    return make


async def said(microvm: LibvirtMicroVM, spec: GuestSpec, script: str, origin: Origin) -> str:
    async with microvm.start(spec) as guest:
        assert guest.info.origin is origin
        done = await Conversation(guest).sh(script)
        if script is IDENTITY:
            assert done.text.startswith(str(guest.info.boot_id))
    return done.text


async def test_guests_that_waited_differ_in_all_that_identifies_and_have_their_own_image(
    warm: LibvirtMicroVM, image: Callable[[str], list[Path]]
) -> None:
    names = ["left", "right"]
    await asyncio.sleep(WAITED_S)  # whoever kept the clock of the rehearsal would be that late
    asked_s = time.time()
    texts = await asyncio.gather(
        *(said(warm, guest_spec(*image(n), hostname=n), IDENTITY, Origin.WARM) for n in names)
    )
    answered_s = time.time()
    boot_ids, hostnames, randoms, clocks, contents = zip(*map(str.splitlines, texts), strict=True)
    assert list(hostnames) == list(contents) == names
    assert len(set(boot_ids)) == len(set(randoms)) == len(names)
    for clock in map(int, clocks):
        assert asked_s - CLOCK_SLACK_S <= clock <= answered_s + CLOCK_SLACK_S
    assert not warm.warm.waiting, "each is used once"


async def test_a_guest_that_waited_is_to_a_command_what_a_fresh_clone_is(
    warm: LibvirtMicroVM, image: Callable[[str], list[Path]]
) -> None:
    spec = [guest_spec(*image(name), hostname="same") for name in ("one", "two", "three")]
    first, second = [await said(warm, s, SURROUNDINGS, Origin.WARM) for s in spec[:2]]
    assert first == second == await said(warm, spec[2], SURROUNDINGS, Origin.TEMPLATE)
    assert "/proc/1/root/s/u" in first


async def test_what_a_command_writes_in_a_guest_that_waited_is_its_layer(
    warm: LibvirtMicroVM, base_layer: Path
) -> None:
    async with warm.start(guest_spec(base_layer)) as guest:
        assert guest.info.origin is Origin.WARM
        await Conversation(guest).sh("echo mine >/made; rm /etc/motd")
        tar = b"".join([chunk async for chunk in guest.capture(bytes_max=MIB)])
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == [".", "etc", "etc/motd", "made"]


async def test_a_run_of_another_size_takes_none(warm: LibvirtMicroVM, base_layer: Path) -> None:
    other = 4 * LAYER_BYTES_MAX
    assert bucket_mib(other) != bucket_mib(LAYER_BYTES_MAX)
    await said(warm, guest_spec(base_layer, max_layer_bytes=other), "true", Origin.TEMPLATE)
    assert len(warm.warm.waiting) == 2


async def test_a_guest_that_dies_while_it_waits_costs_no_run(
    warm: LibvirtMicroVM, base_layer: Path
) -> None:
    before = warm.warm.counts.flawed
    for waits in warm.warm.waiting:
        (pid,) = qemu_pids(waits.machine.spec.name)
        os.kill(pid, signal.SIGKILL)
    # Whether the news of it has come yet or not.
    await said(warm, guest_spec(base_layer), "true", Origin.TEMPLATE)
    await waiting(warm, 1)
    assert warm.warm.counts.flawed > before
    await said(warm, guest_spec(base_layer), "true", Origin.WARM)


async def test_nothing_is_left_of_guests_that_nobody_used(warm: LibvirtMicroVM) -> None:
    machines = [guest.machine for guest in warm.warm.waiting]
    assert all(qemu_pids(machine.spec.name) for machine in machines)
    warm.keep_waiting(0, fill=False)
    await asyncio.gather(*(machine.gone.wait() for machine in machines))
    for machine in machines:
        assert qemu_pids(machine.spec.name) == []
        assert not machine.spec.directory.exists()
        assert not machine.spec.scratch_image.exists()
