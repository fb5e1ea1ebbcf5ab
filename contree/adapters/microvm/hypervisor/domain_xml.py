"""A guest as libvirt domain XML. Pure: values in, text out.

The shape is the same for every guest but for name, files and sizes, so that a saved template of it
can be restored later: guest RAM in a memory backend named `ram`, the layers disk always at
LAYERS_SLOT, the scratch disk at SCRATCH_SLOT, both present even with no layer. No network device.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

DOMAIN_TYPES = {"kvm": "kvm", "tcg": "qemu"}
"""Our accelerators and libvirt's names of them."""

NAME_PREFIX = "contree-"
LAYERS_SLOT = 5
LAYERS_ALIAS = "ua-layers"
"""The layers disk's id in QEMU; libvirt wants ours to begin so."""

SCRATCH_SLOT = 6
_PORTS_SLOT = 4

AGENT_SOCKET = "agent.sock"
DATA_SOCKET = "data.sock"
CONSOLE_SOCKET = "console.sock"

KERNEL_COMMAND_LINE = (
    # panic=-1 and reboot=t: a panic becomes a reset at once, which ends the domain.
    "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable no_timer_check "
    # One tenant a guest: the guest's own mitigations would protect it from itself.
    "rcupdate.rcu_expedited=1 mitigations=off audit=0 "
    # 0.3 s of cipher self-tests; guest-protocol.md section 8 on this and what is not here.
    "cryptomgr.notests"
)

_NESTED = ("vmx", "svm")
CPU_WITHOUT = {
    # Virtual machines in guests: much of the host's kernel, for guests' root to attack.
    "kvm": _NESTED,
    # The guest's kernel and libc clear and copy by `rep stosb` and `rep movsb` where these two are
    # said to be fast; TCG does a byte at a time. Without them that takes half the CPU.
    "tcg": (*_NESTED, "erms", "fsrm"),
}
"""Features that guests' CPUs do not have, by accelerator."""

CPUID_LEAVES = ("-global", "max-x86_64-cpu.min-xlevel=0x80000008")
"""Without svm QEMU ends the leaves before the one that tells the size of addresses, and Linux
reckons with 48 bits though it maps with the 57 of la57: programs die as they start.
"""


class Role(StrEnum):
    """COLD boots; TEMPLATE boots to be saved; CLONE waits for a template's state to be loaded."""

    COLD = "cold"
    TEMPLATE = "template"
    CLONE = "clone"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSpec:
    """What differs between guests.

    directory   private to this guest; its sockets are made there
    layers_vmdk, scratch_image   disks, made before the start; of a template, raw placeholders
    memory_file  RAM of a template or a clone
    """

    name: str
    accelerator: str
    memory_mib: int
    vcpu_count: int
    emulator: str
    machine: str
    kernel: Path
    initramfs: Path
    directory: Path
    layers_vmdk: Path
    scratch_image: Path
    role: Role = Role.COLD
    memory_file: Path | None = None


def domain_xml(spec: DomainSpec) -> str:
    """Return the XML of a transient domain; libvirt's formatdomain documentation."""
    return f"""\
<domain type='{DOMAIN_TYPES[spec.accelerator]}' \
xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{escape(spec.name)}</name>
  <memory unit='MiB'>{spec.memory_mib}</memory>
  <vcpu>{spec.vcpu_count}</vcpu>
  <os>
    <type arch='x86_64' machine={quoteattr(spec.machine)}>hvm</type>
    <kernel>{escape(str(spec.kernel))}</kernel>
    <initrd>{escape(str(spec.initramfs))}</initrd>
    <cmdline>{KERNEL_COMMAND_LINE}</cmdline>
  </os>
  <features><acpi/>{_pmu(spec)}</features>
  <cpu mode='{"host-passthrough" if spec.accelerator == "kvm" else "maximum"}'>\
{_cpu_without(spec)}</cpu>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{escape(spec.emulator)}</emulator>
    <serial type='unix'>{_socket(spec.directory / CONSOLE_SOCKET)}</serial>
    <controller type='usb' model='none'/>
    <controller type='virtio-serial' index='0'>{_pci(_PORTS_SLOT)}</controller>
    <channel type='unix'>{_socket(spec.directory / AGENT_SOCKET)}\
<target type='virtio' name='agent'/></channel>
    <channel type='unix'>{_socket(spec.directory / DATA_SOCKET)}\
<target type='virtio' name='data'/></channel>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{_layers_format(spec)}' cache='unsafe'/>
      <source file={quoteattr(str(spec.layers_vmdk))}/>
      <target dev='vda' bus='virtio'/><readonly/><alias name='{LAYERS_ALIAS}'/>{_pci(LAYERS_SLOT)}
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='unsafe'/>
      <source file={quoteattr(str(spec.scratch_image))}/>
      <target dev='vdb' bus='virtio'/>{_pci(SCRATCH_SLOT)}
    </disk>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-object'/>
    <qemu:arg value={quoteattr(_memory_backend(spec))}/>
    <qemu:arg value='-machine'/>
    <qemu:arg value='memory-backend=ram'/>{_cpuid_leaves(spec)}{_incoming(spec)}
  </qemu:commandline>
</domain>
"""


def _pmu(spec: DomainSpec) -> str:
    # Performance counters tell of the host's other work; TCG has none.
    return "<pmu state='off'/>" if spec.accelerator == "kvm" else ""


def _cpu_without(spec: DomainSpec) -> str:
    names = CPU_WITHOUT[spec.accelerator]
    return "".join(f"<feature policy='disable' name='{name}'/>" for name in names)


def _layers_format(spec: DomainSpec) -> str:
    # QEMU's vmdk driver refuses to be saved; loading a state onto it works.
    return "raw" if spec.role is Role.TEMPLATE else "vmdk"


def _memory_backend(spec: DomainSpec) -> str:
    size = f"size={spec.memory_mib}M"
    if spec.role is Role.COLD:
        return f"memory-backend-memfd,id=ram,{size},share=on"
    # A template's RAM is the file; clones see the file and keep their writes to themselves.
    path = str(spec.memory_file).replace(",", ",,")  # QEMU's way to escape a comma
    share = "on" if spec.role is Role.TEMPLATE else "off"
    return f"memory-backend-file,id=ram,{size},mem-path={path},share={share}"


def _cpuid_leaves(spec: DomainSpec) -> str:
    return _arguments(*CPUID_LEAVES) if spec.accelerator == "tcg" else ""


def _incoming(spec: DomainSpec) -> str:
    return _arguments("-incoming", "defer") if spec.role is Role.CLONE else ""


def _arguments(*values: str) -> str:
    return "".join(f"\n    <qemu:arg value='{value}'/>" for value in values)


def _socket(path: Path) -> str:
    return f"<source mode='bind' path={quoteattr(str(path))}/>"


def _pci(slot: int) -> str:
    return f"<address type='pci' domain='0' bus='0' slot='{slot:#x}' function='0'/>"
