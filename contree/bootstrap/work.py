"""The worker: libvirt, the use cases that carry operations out, and its duties for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from contree import programs
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.layers.trim import TrimLayers
from contree.adapters.layers.unpacking.unpacker import ArchiveUnpacker
from contree.adapters.microvm.boot.assets import prepare_assets
from contree.adapters.microvm.runner import LibvirtMicroVM
from contree.adapters.registry.source import RegistryImageSource
from contree.adapters.system.disk import free_bytes
from contree.adapters.system.heap import keep_holes_out
from contree.adapters.system.host import LinuxHost
from contree.adapters.system.host_mark import FileMark, HostLeadership
from contree.app.conclude import Conclude
from contree.app.content.drop_layers import DropLayers
from contree.app.content.remove_content import RemovalDuty, RemoveContent
from contree.app.content.remove_layers import RemoveLayers
from contree.app.images.import_image import ImportImage
from contree.app.place_files import PlaceFiles
from contree.app.recover import Recover
from contree.app.run_instance import RunInstance
from contree.bootstrap.deployment import Core
from contree.bootstrap.runtime_dir import runtime_dir
from contree.config import Settings
from contree.domain.operation import Kind
from contree.worker.duties import Duty, duties_kept
from contree.worker.loop import Worker
from contree.worker.obstacles import (
    DiskFloor,
    HealthCheck,
    NothingAway,
    NothingLacking,
    Obstacles,
    Told,
)
from contree.worker.room import Room
from contree.worker.sole import sole_worker

Machines = LibvirtMicroVM

PROGRAMS = NothingLacking(lacking=programs.lacking)


@asynccontextmanager
async def microvm(
    settings: Settings, *, reprobe: bool = False, kvm_record: Path | None = None
) -> AsyncIterator[LibvirtMicroVM]:
    """Connect to libvirt with the guest's kernel and agent at hand; it needs no database.

    `reprobe` asks about KVM anew, whatever is recorded, and records the answer: in `kvm_record`
    instead of below the data directory, if given.

    Raises GuestFailure, UnavailableError.
    """
    assets = await asyncio.to_thread(
        prepare_assets,
        settings.guest_kernel_dir,
        settings.guest_agent,
        settings.data_dir / "guest",
    )
    with runtime_dir(settings) as sockets:
        machines = await LibvirtMicroVM.open(
            uri=settings.libvirt_uri,
            runtime_dir=sockets / "guests",
            cache_dir=settings.data_dir / "cache",
            assets=assets,
            accelerator=settings.accelerator,
            kvm_probe_timeout_s=settings.kvm_probe_timeout,
            kvm_record=kvm_record,
            memory_mib=settings.guest_memory_mib,
            vcpu_count=settings.guest_vcpu_count,
            max_layer_bytes=settings.limits.instance_max_layer_bytes,
            reprobe=reprobe,
        )
        try:
            yield machines
        finally:
            await machines.aclose()


def duties(core: Core) -> list[Duty]:
    """What one worker of the deployment does for all, beside running operations."""
    removal = RemoveContent(core, actor=f"worker:{core.settings.worker_name}")
    return [
        # Who names former keys wants a new one.
        core.proof.checkpoints(make_key=bool(core.settings.checkpoint_former_keys)),
        core.history.follow,
        core.packing,
        RemovalDuty(removal=removal, projects=core.projects, clock=core.clock),
    ]


def room(settings: Settings) -> Room:
    """How many runs a worker would take on here, beside what else runs now."""
    return settings.guests(LinuxHost(), lambda: 0).room(0)


def waiting(settings: Settings) -> int:
    """How many guests could wait here, beside what else runs now."""
    return settings.guests(LinuxHost(), lambda: 0).waiting(settings.warm_guests)


async def programs_there(told: Told, *, unless: asyncio.Event) -> bool:
    """Wait until this host has the programs that a worker starts; False if `unless` is set before.

    `told` hears what is lacking, and None once nothing is.
    """
    return await Obstacles([PROGRAMS], told=told).until_none(unless=unless)


@asynccontextmanager
async def host_duties(core: Core) -> AsyncIterator[None]:
    """Do what one process of each host does for its data directory."""
    settings = core.settings
    kept: list[Duty] = []
    if core.shared_layers is not None:
        drop = DropLayers(
            recorded=core.recorded,
            projects=core.projects,
            layers=RemoveLayers(index=core.content_index, clock=core.clock),
            here=core.layer_removal,
            mark=FileMark(settings.data_dir / "dropped-layers.position"),
            clock=core.clock,
        )
        kept.append(drop)
    if core.shared_layers is not None and settings.layer_cache_gib is not None:
        kept.append(
            TrimLayers(
                settings.data_dir / "layers",
                core.shared_layers,
                bytes_max=int(settings.layer_cache_gib * 1024**3),
            )
        )
    async with duties_kept(kept, HostLeadership(settings.data_dir)):
        yield


def health_checks(core: Core) -> list[HealthCheck]:
    """What a host needs before its worker takes on an operation."""
    settings = core.settings
    places = [settings.data_dir / name for name in ("layers", "cache", "pulls")]
    return [
        DiskFloor(
            free_bytes=partial(free_bytes, places),
            reserve_bytes=settings.disk_reserve_mib * 1024**2,
        ),
        NothingAway(outages=core.outages),
        PROGRAMS,
    ]


@asynccontextmanager
async def worker(
    core: Core, machines: LibvirtMicroVM, *, told: Told = lambda _: None
) -> AsyncIterator[Worker]:
    """A worker that is ready to run, on `machines`, and the duties of the deployment.

    `told` hears what keeps it from taking on operations, None for nothing. Raises UnavailableError
    when another worker has its name.
    """
    settings = core.settings
    keep_holes_out()
    if isinstance(core.layers, LayerDirectory):
        await asyncio.to_thread(core.layers.sweep)
    if isinstance(core.source, RegistryImageSource):
        await asyncio.to_thread(core.source.sweep)
    name, on_host = settings.worker_name, HostLeadership(settings.data_dir)
    resumes = on_host.was_led(f"worker {name}")
    async with (
        sole_worker(name, on_host),
        sole_worker(name, core.leadership) as has_name,
        duties_kept(duties(core), core.leadership),
        host_duties(core),
    ):
        obstacles = Obstacles([*health_checks(core), has_name], told=told)
        yield _worker(core, machines, obstacles, resumes=resumes)


def _worker(core: Core, machines: LibvirtMicroVM, obstacles: Obstacles, *, resumes: bool) -> Worker:
    settings, outages = core.settings, core.outages
    conclude = Conclude(
        log=core.log,
        outages=outages,
        clock=core.clock,
        ids=core.ids,
        actor=f"worker:{settings.worker_name}",
    )
    run_instance = RunInstance(
        log=core.log,
        images=core.images,
        files=PlaceFiles(
            files=core.files,
            content=core.content,
            archives=ArchiveUnpacker(settings.data_dir / "cache" / "unpacking"),
            outages=outages,
        ),
        content=core.content,
        environment=core.environment,
        layers=core.layers,
        microvm=machines,
        journal=core.journal,
        control=core.control,
        sealer=core.sealer,
        clock=core.clock,
        ids=core.ids,
        conclude=conclude,
        outages=outages,
    )
    import_image = ImportImage(
        log=core.log,
        source=core.source,
        layers=core.layers,
        environment=core.environment,
        sealer=core.sealer,
        conclude=conclude,
        outages=outages,
    )
    guests = settings.guests(LinuxHost(), machines.memory_bytes)
    return Worker(
        name=settings.worker_name,
        queue=core.queue,
        execute={Kind.INSTANCE: run_instance.execute, Kind.IMPORT: import_image.execute},
        capacity=settings.capacity(guests),
        conclude=conclude,
        recover=Recover(queue=core.queue, conclude=conclude),
        microvm=machines,
        clock=core.clock,
        ids=core.ids,
        obstacles=obstacles,
        drain_s=settings.drain_timeout,
        resumes=resumes,
        waiting=lambda: guests.waiting(settings.warm_guests),
    )
