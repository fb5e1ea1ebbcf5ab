"""What an operator can do so that guests run under KVM."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

KVM_DEVICE = Path("/dev/kvm")
GROUP_MAY_USE = stat.S_IRGRP | stat.S_IWGRP


def kvm_remedy(why_not: str) -> str:
    """Return the advice; `why_not` is why guests are emulated."""
    if why_not.startswith("the setting"):
        return "set accelerator to auto"
    if not KVM_DEVICE.exists():
        return (
            "switch virtualisation on in the firmware, or nesting where this is a guest itself, "
            "and load kvm_intel or kvm_amd"
        )
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return kvm_access(KVM_DEVICE.stat())
    return "a slow host may need a longer kvm_probe_timeout; a broken KVM cannot be used"


def kvm_access(device: os.stat_result) -> str:
    """Say how the user of this process comes to use the device: Debian gives it to group kvm."""
    joins = "usermod -aG {} " + _our_name() + ", and log in again"
    if device.st_gid != 0 and device.st_mode & GROUP_MAY_USE == GROUP_MAY_USE:
        return joins.format(_group_named(device.st_gid))
    return f"chgrp kvm {KVM_DEVICE}; chmod 660 {KVM_DEVICE}; {joins.format('kvm')}"


def _our_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _group_named(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
