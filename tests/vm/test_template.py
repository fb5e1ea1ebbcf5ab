"""Clones of a real template: alike until they start, different before any command runs. Tests that
break a template have a microVM of their own, on a copy of what was built for all.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from contree.adapters.microvm.disks.scratch_disk import ScratchDisks, bucket_mib
from contree.adapters.microvm.disks.sealed_file import SealedFile
from contree.adapters.microvm.hypervisor.qemu_process import qemu_pids
from contree.adapters.microvm.hypervisor.runtime_dir import RuntimeDir
from contree.adapters.microvm.runner import LibvirtMicroVM
from contree.adapters.microvm.templates.template import Template
from contree.adapters.microvm.templates.template_keeper import CLONE_FAILURES_MAX, TemplateKeeper
from contree.app.guest.microvm import GuestSpec, Origin
from tests.vm.conversation import Conversation
from tests.vm.fixtures import LAYER_BYTES_MAX, TEST_DEADLINES, guest_spec

pytestmark = pytest.mark.vm

CLONES = 12
"""More than there are cores, so that many of them come up in the same moment."""

TEMPLATE_AGE_S = 4.0
CLOCK_SLACK_S = 1.0  # `date` has whole seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a guest says of itself, and when it was asked, by the host's clock."""

    boot_id: str
    hostname: str
    random: str
    clock_s: int
    asked_s: float
    answered_s: float


def keeper(microvm: LibvirtMicroVM) -> TemplateKeeper:
    assert microvm.templates is not None
    return microvm.templates


async def template(microvm: LibvirtMicroVM) -> Template:
    current = await keeper(microvm).current()
    assert current is not None
    return current


def digest(path: Path) -> str:
    copy = SealedFile.copy_of(path)
    copy.close()
    return copy.digest


@asynccontextmanager
async def another(
    beside: LibvirtMicroVM, directory: Path, cache: Path, *, vcpu_count: int = 1
) -> AsyncIterator[LibvirtMicroVM]:
    """What another start would be; on the same libvirt, as a process can embed only one."""
    uri = f"qemu:///embed?root={directory}/run/libvirt"
    runtime = RuntimeDir(directory / "other", scratch=cache / "scratch", uri=uri)
    runtime.lock()
    opened = LibvirtMicroVM(
        connection=beside._connection,
        runtime=runtime,
        scratch=ScratchDisks(cache / "scratch"),
        assets=beside._assets,
        memory_mib=256,
        vcpu_count=vcpu_count,
        deadlines=TEST_DEADLINES,
        max_layer_bytes=LAYER_BYTES_MAX,
    )
    opened.chosen = beside.chosen
    await opened.use_templates(cache / "templates", uri=None)
    try:
        yield opened
    finally:
        await keeper(opened).aclose()
        await opened._machines.end_all()
        runtime.unlock()


async def identity(microvm: LibvirtMicroVM, spec: GuestSpec) -> Identity:
    asked_s = time.time()  # its clock was set at some moment after this
    async with microvm.start(spec) as guest:
        assert guest.info.origin is Origin.TEMPLATE
        done = await Conversation(guest).sh(
            "cat /proc/sys/kernel/random/boot_id; hostname; "
            "head -c 32 /dev/urandom | sha256sum; date +%s"
        )
        answered_s = time.time()
        boot_id, hostname, random, clock = done.text.splitlines()
        assert UUID(boot_id) == guest.info.boot_id
    return Identity(
        boot_id=boot_id, hostname=hostname, random=random, clock_s=int(clock), asked_s=asked_s,
        answered_s=answered_s,
    )  # fmt: skip


async def test_clones_started_at_once_differ_in_all_that_identifies_and_leave_the_template_alone(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path
) -> None:
    used, fallbacks = await template(microvm), keeper(microvm).counts.fallbacks
    unit = short_dir / "cache" / "templates" / used.key
    meta = json.loads((unit / "meta.json").read_text())
    # A clone that kept the template's clock would be as late as the template is old.
    await asyncio.sleep(max(0.0, (unit / "state").stat().st_mtime + TEMPLATE_AGE_S - time.time()))
    found = await asyncio.gather(
        *(identity(microvm, guest_spec(base_layer, hostname=f"clone-{i}")) for i in range(CLONES))
    )
    assert [guest.hostname for guest in found] == [f"clone-{i}" for i in range(CLONES)]
    assert len({guest.boot_id for guest in found}) == CLONES
    assert len({guest.random for guest in found}) == CLONES
    for guest in found:
        assert guest.asked_s - CLOCK_SLACK_S <= guest.clock_s <= guest.answered_s + CLOCK_SLACK_S
    assert digest(used.memory_file) == used.memory.digest == meta["ram"]
    assert (digest(unit / "ram"), digest(unit / "state")) == (meta["ram"], meta["state"])
    assert keeper(microvm).counts.fallbacks == fallbacks


async def test_the_next_start_opens_the_template_that_is_there(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path
) -> None:
    await template(microvm)
    async with another(microvm, short_dir, short_dir / "cache") as second:
        await identity(second, guest_spec(base_layer))
        counts = keeper(second).counts
        assert (counts.built, counts.loaded, counts.clones) == (0, 1, 1)


@pytest.mark.parametrize("max_layer_bytes", [1024**2, 4 * LAYER_BYTES_MAX])
async def test_a_clone_may_have_a_scratch_disk_of_another_size_than_the_template(
    microvm: LibvirtMicroVM, base_layer: Path, max_layer_bytes: int
) -> None:
    spec = guest_spec(base_layer, max_layer_bytes=max_layer_bytes)
    async with microvm.start(spec) as guest:
        assert guest.info.origin is Origin.TEMPLATE
        said = await Conversation(guest).sh("echo x >/x; sync; df -k / | tail -1")
    size_kib = int(said.text.split()[1])
    assert bucket_mib(max_layer_bytes) * 0.9 < size_kib / 1024 <= bucket_mib(max_layer_bytes)


async def test_without_templates_a_guest_boots(
    microvm: LibvirtMicroVM, base_layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microvm, "templates", None)  # as `open(templates=False)` leaves it
    async with microvm.start(guest_spec(base_layer, hostname="cold-box")) as guest:
        assert guest.info.origin is Origin.COLD
        assert (await Conversation(guest).sh("hostname")).text == "cold-box\n"


async def test_a_change_of_shape_gets_a_template_of_its_own(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path
) -> None:
    used = await template(microvm)
    async with another(microvm, short_dir, short_dir / "cache", vcpu_count=2) as wide:
        assert (await template(wide)).key != used.key
        assert keeper(wide).counts.built == 1
        async with wide.start(guest_spec(base_layer)) as guest:
            assert guest.info.origin is Origin.TEMPLATE
            assert (await Conversation(guest).sh("nproc")).text == "2\n"


async def test_guests_boot_when_restoring_fails_and_the_template_is_given_up(
    microvm: LibvirtMicroVM,
    base_layer: Path,
    short_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    used = await template(microvm)
    cache = short_dir / "broken-cache"
    unit = cache / "templates" / used.key
    shutil.copytree(short_dir / "cache" / "templates" / used.key, unit)
    (unit / "state").write_bytes(b"not a device state")
    meta = json.loads((unit / "meta.json").read_text())
    (unit / "meta.json").write_text(json.dumps({**meta, "state": digest(unit / "state")}))
    async with another(microvm, short_dir, cache) as broken:
        specs = [guest_spec(base_layer, hostname=f"box-{i}") for i in range(CLONE_FAILURES_MAX)]

        async def name(spec: GuestSpec) -> str:
            async with broken.start(spec) as guest:
                assert guest.info.origin is Origin.COLD
                return (await Conversation(guest).sh("hostname")).text.strip()

        assert await asyncio.gather(*map(name, specs)) == [spec.hostname for spec in specs]
        counts = keeper(broken).counts
        assert (counts.fallbacks, counts.discarded, counts.clones) == (CLONE_FAILURES_MAX, 1, 0)
        assert caplog.text.count("restoring a guest failed, it boots instead") == CLONE_FAILURES_MAX
        assert not unit.exists()
    assert qemu_pids(f"{short_dir}/other/vm/") == []
    assert list((short_dir / "other" / "vm").iterdir()) == []
    assert not list(cache.glob("scratch/live-*/*"))
