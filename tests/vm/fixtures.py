"""One libvirt, one guest kernel and one small base image for all tests that boot real guests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import pytest

from contree.adapters.microvm.agent.channel import Deadlines
from contree.adapters.microvm.boot.assets import GuestAssets, prepare_assets
from contree.adapters.microvm.runner import LibvirtMicroVM
from contree.app.guest.microvm import GuestSpec
from contree.app.images.layer_store import FilePart, MountPlan
from tests.support.guest_build import make_guest
from tests.support.squashfs import whole
from tests.vm.conversation import Conversation

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / ".cache" / "packages"
AGENT = ROOT / "guest" / "build" / "agent"
BUSYBOX = PACKAGES / "busybox-static" / "bin" / "busybox"
MIB = 1024**2

LAYER_BYTES_MAX = 256 * MIB
TEST_DEADLINES = Deadlines(
    boot_s=300,
    restore_s=300,
    answer_s=300,
    silence_s=300,
    capture_stall_s=300,
    capture_grace_s=300,
)
"""Only a guest that hangs meets one: a dozen start at once on however busy a machine."""


def run_id() -> UUID:
    return UUID(bytes=os.urandom(16), version=4)


def guest_spec(
    *layers: Path | tuple[FilePart, ...],
    hostname: str = "box",
    max_layer_bytes: int = LAYER_BYTES_MAX,
) -> GuestSpec:
    return GuestSpec(
        run_id=run_id(),
        mounts=MountPlan(
            squashfs=tuple(whole(one) if isinstance(one, Path) else one for one in layers)
        ),
        hostname=hostname,
        max_layer_bytes=max_layer_bytes,
    )


def squash(tree: Path, out: Path) -> Path:
    """Make a squashfs of a directory, as a layer is stored."""
    command = [
        "mksquashfs",
        str(tree),
        str(out),
        "-comp",
        "lz4",
        "-noappend",
        "-quiet",
        "-all-root",
    ]
    subprocess.run([*command, "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for socket names; pytest's own do not."""
    path = Path(tempfile.mkdtemp(prefix="cvm", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def guest_assets(short_dir: Path) -> GuestAssets:
    """The kernel that `make setup` unpacked, with the agent as it is now."""
    make_guest().check_returncode()
    return prepare_assets(PACKAGES / "linux-image-cloud-amd64", AGENT, short_dir / "boot")


@pytest.fixture(scope="session")
def base_layer(short_dir: Path) -> Path:
    """A squashfs with busybox, a few files, and nothing for dev, proc or sys."""
    tree = short_dir / "base"
    for name in ("bin", "etc", "keep", "gone"):
        (tree / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin" / "busybox")
    for applet in subprocess.check_output([BUSYBOX, "--list"], text=True).split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc" / "motd").write_text("base\n")
    (tree / "keep" / "lower").write_text("lower\n")
    (tree / "gone" / "file").write_text("gone\n")
    (tree / "not-executable").write_text("text\n")
    return squash(tree, short_dir / "base.sqfs")


@pytest.fixture(scope="session")
async def microvm(short_dir: Path, guest_assets: GuestAssets) -> AsyncIterator[LibvirtMicroVM]:
    """Real guests on a libvirt of our own."""
    opened = await LibvirtMicroVM.open(
        uri=None,
        runtime_dir=short_dir / "run",
        cache_dir=short_dir / "cache",
        assets=guest_assets,
        accelerator="auto",
        memory_mib=256,
        max_layer_bytes=LAYER_BYTES_MAX,
        deadlines=TEST_DEADLINES,
    )
    yield opened
    await opened.aclose()


@pytest.fixture(scope="session")
async def box(microvm: LibvirtMicroVM, base_layer: Path) -> AsyncIterator[Conversation]:
    """A guest that tests share, each with processes and files of its own."""
    async with AsyncExitStack() as stack:
        guest = await stack.enter_async_context(
            microvm.start(guest_spec(base_layer, hostname="shared-box"))
        )
        yield Conversation(guest)
