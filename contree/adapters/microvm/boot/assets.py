"""The guest's kernel and initramfs, made from an unpacked kernel package of the distribution.

`prepare_assets` is for `make setup` and the first start: it builds only when an input changed. It
downloads nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from contree.adapters.microvm.boot.initramfs import build_initramfs, find_modules
from contree.adapters.microvm.templates.rehearsal import build_rehearsal
from contree.domain.errors import GuestFailure

KERNEL_NAME = "vmlinuz"
INITRAMFS_NAME = "initramfs.cpio"
REHEARSAL_NAME = "rehearsal.squashfs"
_INPUTS_NAME = "inputs.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestAssets:
    """What every guest boots; and the layer that one which waits runs its rehearsal on."""

    kernel: Path
    initramfs: Path
    rehearsal: Path

    @classmethod
    def below(cls, directory: Path) -> Self:
        return cls(
            kernel=directory / KERNEL_NAME,
            initramfs=directory / INITRAMFS_NAME,
            rehearsal=directory / REHEARSAL_NAME,
        )

    def missing(self) -> list[Path]:
        return [p for p in (self.kernel, self.initramfs, self.rehearsal) if not p.is_file()]

    def digest(self) -> str:
        """Return `sha256:<hex>` over what is booted: what a verdict or template is valid for."""
        both = hashlib.sha256()
        for path in (self.kernel, self.initramfs):
            both.update(_file_digest(path).encode())
        return f"sha256:{both.hexdigest()}"


def find_assets(boot_dir: Path) -> GuestAssets:
    """Return what `prepare_assets` left in `boot_dir`. Raises GuestFailure when it is not there."""
    assets = GuestAssets.below(boot_dir)
    for path in assets.missing():
        raise GuestFailure(f"{path} is missing: run `make setup`")
    return assets


def prepare_assets(kernel_package_dir: Path, agent: Path, out_dir: Path) -> GuestAssets:
    """Make `out_dir` hold the kernel of an unpacked package and the initramfs for it.

    `kernel_package_dir` has `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE`, as a Debian
    linux-image package does; with several releases the newest counts. Raises GuestFailure when
    something is missing, InitramfsError when the agent or a module is not what it should be.
    """
    kernel = _newest_kernel(kernel_package_dir / "boot")
    release = kernel.name.removeprefix(f"{KERNEL_NAME}-")
    modules_dir = _modules_dir(kernel_package_dir, release)
    if not agent.is_file():
        raise GuestFailure(f"{agent} is missing: run `make -C guest`")
    modules = find_modules(modules_dir)
    inputs = {str(path): _file_digest(path) for path in (kernel, agent, *modules)}
    assets = GuestAssets.below(out_dir)
    if _recorded_inputs(out_dir) == inputs and not assets.missing():
        return assets
    out_dir.mkdir(parents=True, exist_ok=True)
    record = out_dir / _INPUTS_NAME
    record.unlink(missing_ok=True)  # written last: its presence says that the rest is whole
    partial = out_dir / f"{KERNEL_NAME}.{os.getpid()}.partial"
    try:
        shutil.copyfile(kernel, partial)
        partial.replace(assets.kernel)
    finally:
        partial.unlink(missing_ok=True)
    build_initramfs(agent, modules, assets.initramfs)
    build_rehearsal(agent, assets.rehearsal)
    record.write_text(json.dumps(inputs, indent=1, sort_keys=True))
    return assets


def _newest_kernel(boot: Path) -> Path:
    kernels = sorted(boot.glob(f"{KERNEL_NAME}-*"), key=_release_order)
    if not kernels:
        raise GuestFailure(f"{boot} has no {KERNEL_NAME}-*: unpack a linux-image package there")
    return kernels[-1]


def _release_order(kernel: Path) -> list[tuple[int, str]]:
    """Order `6.1.0-9` before `6.1.0-56`."""
    words = kernel.name.replace("-", ".").split(".")
    return [(int(word), "") if word.isdigit() else (-1, word) for word in words]


def _modules_dir(package: Path, release: str) -> Path:
    for lib in ("lib", "usr/lib"):
        modules = package / lib / "modules" / release
        if modules.is_dir():
            return modules
    raise GuestFailure(f"{package} has no lib/modules/{release}")


def _recorded_inputs(out_dir: Path) -> object:
    try:
        return json.loads((out_dir / _INPUTS_NAME).read_text())
    except (OSError, ValueError):
        return None


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
