"""The XML parsed again; that libvirt takes it is shown by tests/vm."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from contree.adapters.microvm.domain_xml import DomainSpec, domain_xml

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def parsed(accelerator: str = "tcg", directory: str = "/run/x") -> ET.Element:
    spec = DomainSpec(
        name="contree-1",
        accelerator=accelerator,
        memory_mib=384,
        vcpu_count=3,
        emulator="/usr/bin/qemu",
        machine="pc",
        kernel=Path("/boot/vmlinuz"),
        initramfs=Path("/boot/initramfs"),
        directory=Path(directory),
        layers_vmdk=Path(directory, "layers.vmdk"),
        scratch_image=Path("/cache/1.img"),
    )
    return ET.fromstring(domain_xml(spec))


def text(root: ET.Element, path: str) -> str | None:
    found = root.find(path)
    assert found is not None
    return found.text


def attribute(root: ET.Element, path: str, name: str) -> str | None:
    found = root.find(path)
    assert found is not None
    return found.get(name)


@pytest.mark.parametrize(
    ("accelerator", "domain_type", "cpu"),
    [("tcg", "qemu", "maximum"), ("kvm", "kvm", "host-passthrough")],
)
def test_the_accelerator_chooses_type_and_cpu(accelerator: str, domain_type: str, cpu: str) -> None:
    root = parsed(accelerator)
    assert root.get("type") == domain_type
    assert attribute(root, "cpu", "mode") == cpu


def test_sizes_reach_the_domain_and_its_memory_backend() -> None:
    root = parsed()
    assert text(root, "memory") == "384"
    assert text(root, "vcpu") == "3"
    arguments = [a.get("value") or "" for a in root.iter(f"{QEMU}arg")]
    assert any("id=ram,size=384M" in a for a in arguments)
    assert "memory-backend=ram" in arguments


def test_disks_sit_in_the_slots_that_the_agent_is_told() -> None:
    disks = parsed().findall("devices/disk")
    slots = [attribute(disk, "address", "slot") for disk in disks]
    assert slots == ["0x5", "0x6"]
    assert disks[0].find("readonly") is not None
    assert disks[1].find("readonly") is None


def test_every_way_down_ends_the_domain_and_there_is_no_network() -> None:
    root = parsed()
    assert {text(root, on) for on in ("on_poweroff", "on_reboot", "on_crash")} == {"destroy"}
    assert root.find("devices/interface") is None


def test_names_are_escaped() -> None:
    root = parsed(directory="/run/a<b>&'\"c")
    source = root.find("devices/channel/source")
    assert source is not None
    assert source.get("path") == "/run/a<b>&'\"c/agent.sock"
