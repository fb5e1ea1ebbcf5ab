"""The XML parsed again; that libvirt takes it is shown by tests/vm."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from contree.adapters.microvm.hypervisor.domain_xml import DomainSpec, Role, domain_xml

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def parsed(
    accelerator: str = "tcg",
    directory: str = "/run/x",
    role: Role = Role.COLD,
    memory_file: Path | None = None,
) -> ET.Element:
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
        role=role,
        memory_file=memory_file,
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
    ("accelerator", "domain_type", "cpu", "without", "pmu"),
    [
        ("tcg", "qemu", "maximum", ["vmx", "svm", "erms", "fsrm"], []),
        ("kvm", "kvm", "host-passthrough", ["vmx", "svm"], [{"state": "off"}]),
    ],
)
def test_the_accelerator_chooses_type_and_cpu(
    accelerator: str, domain_type: str, cpu: str, without: list[str], pmu: list[dict[str, str]]
) -> None:
    root = parsed(accelerator)
    assert root.get("type") == domain_type
    assert attribute(root, "cpu", "mode") == cpu
    assert [feature.attrib for feature in root.findall("cpu/*")] == [
        {"policy": "disable", "name": name} for name in without
    ]
    assert [feature.attrib for feature in root.findall("features/pmu")] == pmu
    leaves = "max-x86_64-cpu.min-xlevel=0x80000008"  # or programs die where there is no svm
    assert (leaves in qemu_arguments(root)) == (accelerator == "tcg")


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


def qemu_arguments(root: ET.Element) -> list[str]:
    return [a.get("value") or "" for a in root.iter(f"{QEMU}arg")]


def test_a_template_writes_its_ram_to_the_file_and_has_disks_that_can_be_saved() -> None:
    root = parsed(role=Role.TEMPLATE, memory_file=Path("/t/ram"))
    [backend] = [a for a in qemu_arguments(root) if "id=ram" in a]
    assert "mem-path=/t/ram,share=on" in backend
    assert "-incoming" not in qemu_arguments(root)
    assert attribute(root, "devices/disk/driver", "type") == "raw"


def test_a_clone_keeps_its_writes_to_itself_and_waits_for_the_state() -> None:
    root = parsed(role=Role.CLONE, memory_file=Path("/t,1/ram"))
    [backend] = [a for a in qemu_arguments(root) if "id=ram" in a]
    assert "mem-path=/t,,1/ram,share=off" in backend
    assert qemu_arguments(root)[-2:] == ["-incoming", "defer"]
    assert attribute(root, "devices/disk/driver", "type") == "vmdk"


def test_devices_sit_where_they_did_in_the_template() -> None:
    def devices(role: Role) -> list[str]:
        root = parsed(role=role, memory_file=Path("/t/ram"))
        for driver in root.findall("devices/disk/driver"):
            driver.attrib.pop("type")
        return [ET.tostring(device).decode() for device in root.findall("devices/*")]

    assert devices(Role.TEMPLATE) == devices(Role.CLONE) == devices(Role.COLD)
