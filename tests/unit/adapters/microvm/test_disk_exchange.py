"""What QEMU is asked, in which order; that a guest then reads the other disk is tests/vm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contree.adapters.microvm.hypervisor.disk_exchange import exchange_layers
from contree.adapters.microvm.hypervisor.domain_xml import LAYERS_ALIAS
from tests.unit.adapters.microvm.test_domain_xml import parsed
from tests.unit.adapters.microvm.test_migration import ScriptedMonitor


def test_the_new_disk_is_there_before_the_device_is_given_it() -> None:
    monitor = ScriptedMonitor()
    exchange_layers(monitor, Path("/guest/own/layers.vmdk"))
    (add, disk, _), (change, wanted, _) = monitor.asked
    assert (add, change) == ("blockdev-add", "qom-set")
    described: Any = disk
    assert described["driver"] == "vmdk"
    assert described["read-only"] is True
    assert described["file"]["filename"] == "/guest/own/layers.vmdk"
    assert wanted == {
        "path": f"/machine/peripheral/{LAYERS_ALIAS}/virtio-backend",
        "property": "drive",
        "value": described["node-name"],
    }


def test_the_device_that_is_asked_is_the_read_only_disk_of_the_domain() -> None:
    (disk,) = [d for d in parsed().iter("disk") if d.find("readonly") is not None]
    assert [alias.get("name") for alias in disk.findall("alias")] == [LAYERS_ALIAS]
