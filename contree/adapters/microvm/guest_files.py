"""The files of one guest: its directory, its layers disk, its scratch disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from contree.adapters.microvm.disks.layers_disk import DISK_BYTES, write_layers_disk
from contree.adapters.microvm.disks.scratch_disk import ScratchDisks, bucket_mib, copy_sparsely
from contree.adapters.microvm.hypervisor.domain_xml import DomainSpec
from contree.adapters.microvm.templates.template import Template, TemplateStore
from contree.app.guest.microvm import GuestSpec
from contree.app.images.layer_store import MountPlan
from contree.domain.errors import GuestFailure

MIB = 1024**2
SCRATCH_BYTES_MAX = 1 << 40

_OWN_LAYERS = "own"
"""A directory of a guest that waited: the disk of its run's layers, beside the rehearsal's."""


class GuestFiles:
    """Makes them; whoever retires a guest removes them.

    max_layer_bytes   what guests are usually allowed: the template has such a scratch disk
    """

    def __init__(self, scratch: ScratchDisks, *, max_layer_bytes: int) -> None:
        self._scratch = scratch
        self._max_layer_bytes = max_layer_bytes
        self.usual_mib = bucket_mib(max_layer_bytes)

    def of_usual_size(self, spec: GuestSpec) -> bool:
        """Whether `spec` needs a scratch disk as the template's guest has mounted one."""
        return bucket_mib(spec.max_layer_bytes) == self.usual_mib

    async def write(
        self, domain: DomainSpec, spec: GuestSpec, template: Template | None = None
    ) -> None:
        """Make what a guest of `spec` starts with; a clone's, with its template.

        Raises GuestFailure, StorageFullError.
        """
        _make_directory(domain.directory)
        layers = asyncio.to_thread(write_layers_disk, domain.directory, spec.mounts.squashfs)
        if template is not None and self.of_usual_size(spec):
            scratch = asyncio.to_thread(copy_sparsely, template.scratch, domain.scratch_image)
        else:
            scratch = self._scratch.copy_to(
                domain.scratch_image, max_layer_bytes=spec.max_layer_bytes
            )
        for outcome in await asyncio.gather(layers, scratch, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome  # when neither writes any more

    async def write_own_layers(self, domain: DomainSpec, mounts: MountPlan) -> Path:
        """Make a second layers disk for a guest that waited; return its descriptor.

        Raises GuestFailure.
        """
        directory = domain.directory / _OWN_LAYERS
        _make_directory(directory)
        return await asyncio.to_thread(write_layers_disk, directory, mounts.squashfs)

    async def write_placeholders(self, domain: DomainSpec) -> None:
        """Make a template's disks: no layers, and a scratch disk of the usual size.

        Its guest takes both to be as large as any clone's: it is not told their sizes again.
        """
        _make_directory(domain.directory)
        with domain.layers_vmdk.open("xb") as file:
            file.truncate(DISK_BYTES)
        await self._scratch.copy_to(domain.scratch_image, max_layer_bytes=self._max_layer_bytes)
        os.truncate(domain.scratch_image, SCRATCH_BYTES_MAX)

    async def keep_scratch(self, domain: DomainSpec, partial: Path) -> None:
        """Leave a template's scratch disk, as its guest left it, in `partial`."""
        scratch = TemplateStore.scratch_in(partial)
        await asyncio.to_thread(copy_sparsely, domain.scratch_image, scratch)
        os.truncate(scratch, self.usual_mib * MIB)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
    except OSError as error:
        reason = f"guest directory {directory}: {error.strerror}"
        raise GuestFailure(reason, retryable=True) from error
