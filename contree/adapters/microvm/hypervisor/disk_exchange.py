"""Give a guest's layers disk other content over QEMU's monitor, while the guest reads none of it.

The guest took its disk to have room for all layers when its template was made, and keeps to that:
it is not told of the exchange and need not be. It knows nothing of libvirt.
"""

from __future__ import annotations

from pathlib import Path

from contree.adapters.microvm.hypervisor.domain_xml import LAYERS_ALIAS
from contree.adapters.microvm.hypervisor.migration import Monitor

_NODE = "late-layers"
_DEVICE = f"/machine/peripheral/{LAYERS_ALIAS}/virtio-backend"
_CACHE = {"direct": False, "no-flush": True}  # as `cache='unsafe'` in the domain's XML


def exchange_layers(monitor: Monitor, descriptor: Path) -> None:
    """Put the disk of `descriptor` in place of the one that is there; once in a guest's life.

    Blocks. Raises GuestFailure.
    """
    image = {"driver": "file", "filename": str(descriptor), "read-only": True}
    disk = {"driver": "vmdk", "node-name": _NODE, "read-only": True, "cache": _CACHE, "file": image}
    monitor.execute("blockdev-add", disk)
    # A device that runs may be given another drive (QEMU 6.1).
    monitor.execute("qom-set", {"path": _DEVICE, "property": "drive", "value": _NODE})
