"""Scratch disks, boot assets, runtime directory and the embedded libvirt's files, on real disks."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from contree.adapters.microvm.boot.assets import find_assets, prepare_assets
from contree.adapters.microvm.boot.initramfs import AGENT_MODULES
from contree.adapters.microvm.disks.scratch_disk import SMALLEST_MIB, ScratchDisks, bucket_mib
from contree.adapters.microvm.hypervisor import embedded
from contree.adapters.microvm.hypervisor.runtime_dir import RuntimeDir
from contree.domain.errors import GuestFailure, StorageFullError

MIB = 1024**2
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


@pytest.mark.parametrize(
    ("max_layer_bytes", "expected_mib"),
    [(1, SMALLEST_MIB), (100 * MIB, 256), (12 * 1024**3, 16384), (2**40, 2**21)],
)
def test_a_scratch_disk_has_room_for_the_layer_and_more(
    max_layer_bytes: int, expected_mib: int
) -> None:
    assert bucket_mib(max_layer_bytes) == expected_mib
    assert expected_mib * MIB > max_layer_bytes


async def test_scratch_disks_are_sparse_copies_of_one_sound_filesystem(tmp_path: Path) -> None:
    disks = ScratchDisks(tmp_path / "scratch")
    for name in ("a.img", "b.img"):
        await disks.copy_to(tmp_path / name, max_layer_bytes=12 * 1024 * MIB)
    status = (tmp_path / "a.img").stat()
    assert status.st_size == 16384 * MIB
    assert status.st_blocks * 512 < MIB // 2, "each guest waits for its copy"
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    check_filesystem(tmp_path / "b.img")


async def test_a_scratch_disk_is_a_full_ext4_whatever_the_host_makes_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "mke2fs.conf"
    other.write_text("[defaults]\nbase_features = dir_index\ninode_size = 128\n")
    monkeypatch.setenv("MKE2FS_CONFIG", str(other))
    await ScratchDisks(tmp_path / "scratch").copy_to(tmp_path / "a.img", max_layer_bytes=1)
    fields = superblock(tmp_path / "a.img")
    assert set(fields["Filesystem features"].split()) == {
        "ext_attr", "dir_index", "filetype", "extent", "flex_bg", "sparse_super", "large_file",
        "huge_file", "dir_nlink", "extra_isize", "uninit_bg",
    }  # fmt: skip
    assert fields["Inode size"].split() == ["256"]
    assert fields["Default mount options"].split() == ["user_xattr", "acl"]


def superblock(image: Path) -> dict[str, str]:
    """What dumpe2fs says of it."""
    told = subprocess.check_output(["dumpe2fs", "-h", image], env={"PATH": PATH}, text=True)
    return dict(line.split(":", 1) for line in told.splitlines() if ":" in line)


def check_filesystem(image: Path) -> None:
    subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True, env={"PATH": PATH})


async def test_a_scratch_disk_that_cannot_be_written_is_a_full_store(tmp_path: Path) -> None:
    with pytest.raises(StorageFullError, match="scratch disk"):
        await ScratchDisks(tmp_path).copy_to(tmp_path / "no" / "a.img", max_layer_bytes=1)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An unpacked kernel package of two releases, and an agent."""
    for release in ("6.1.0-9-cloud", "6.1.0-56-cloud"):
        modules = tmp_path / "lib" / "modules" / release / "kernel"
        modules.mkdir(parents=True)
        for name in AGENT_MODULES:
            (modules / f"{name}.ko").write_bytes(b"\x7fELF" + release.encode())
        boot = tmp_path / "boot"
        boot.mkdir(exist_ok=True)
        (boot / f"vmlinuz-{release}").write_text(release)
    (tmp_path / "agent").write_bytes(b"\x7fELF agent")
    return tmp_path


def test_assets_are_of_the_newest_kernel_and_made_once(package: Path) -> None:
    out = package / "out"
    assets = prepare_assets(package, package / "agent", out)
    assert assets.kernel.read_text() == "6.1.0-56-cloud"
    assert find_assets(out) == assets
    before, digest = assets.initramfs.stat().st_ino, assets.digest()
    assert prepare_assets(package, package / "agent", out).initramfs.stat().st_ino == before
    (package / "agent").write_bytes(b"\x7fELF another")
    prepare_assets(package, package / "agent", out)
    assert assets.digest() != digest


@pytest.mark.parametrize("absent", ["agent", "boot", "lib"])
def test_what_is_missing_for_the_assets_is_named(package: Path, absent: str) -> None:
    (package / absent).rename(package / "away")
    with pytest.raises(GuestFailure, match=absent):
        prepare_assets(package, package / "agent", package / "out")


def test_assets_that_were_never_made_are_named(tmp_path: Path) -> None:
    with pytest.raises(GuestFailure, match="make setup"):
        find_assets(tmp_path)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """pytest's own directories are too deep for sockets."""
    with tempfile.TemporaryDirectory(prefix="ct", dir="/tmp") as name:
        yield Path(name)


def test_a_runtime_directory_has_one_holder_and_knows_its_guests(short_path: Path) -> None:
    first = RuntimeDir(short_path / "r", scratch=short_path / "s", uri="qemu:///session")
    second = RuntimeDir(short_path / "r", scratch=short_path / "s", uri="qemu:///session")
    first.lock()
    with pytest.raises(GuestFailure, match="in use by another process"):
        second.lock()
    key = first.guest_key(UUID(int=2**127))
    first.guest_dir(key).mkdir()
    other = first.guest_key(UUID(int=2**126))
    first.scratch_image(other).touch()
    assert first.guest_keys() == {key, other}
    for name in (key, other):
        first.remove_guest(name)
    assert first.guest_keys() == set()
    first.unlock()
    second.lock()
    second.unlock()


def test_a_runtime_directory_is_removed_but_not_with_a_guest_in_it(short_path: Path) -> None:
    runtime = RuntimeDir(short_path / "r", scratch=short_path / "s", uri=None)
    runtime.lock()
    (short_path / "r" / "libvirt" / "etc").mkdir(parents=True)
    runtime.guest_dir("left").mkdir()
    runtime.remove()
    assert runtime.guest_dir("left").is_dir()
    runtime.lock()
    runtime.remove_guest("left")
    runtime.remove()
    assert not (short_path / "r").exists()
    assert list((short_path / "s").iterdir()) == []
    runtime.remove()  # held no more: nothing to do


@pytest.mark.parametrize("on_disk", [True, False])
def test_libvirts_notes_on_guests_are_in_memory_and_go_with_it(
    short_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    monkeypatch.setattr(embedded, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(embedded, "in_memory", lambda _: not on_disk)
    root, notes = short_path / "r", short_path / "r" / "run"
    for _ in range(2):  # the second time after a process that was killed
        embedded.prepare(root, probe_cache=short_path / "probe", capability_filter="")
        assert notes.is_symlink() == on_disk
        assert list(notes.glob("*")) == []
        (notes / "qemu").mkdir(parents=True)
    for place in tmp_path.iterdir():
        assert place.stat().st_mode & 0o777 == 0o700
    embedded.forget(root)
    assert not notes.is_symlink()
    assert not notes.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_memory_is_known(tmp_path: Path) -> None:
    kind = subprocess.check_output(["findmnt", "-nT", tmp_path, "-o", "FSTYPE"], text=True)
    assert embedded.in_memory(tmp_path) == (kind.strip() == "tmpfs")
    assert not embedded.in_memory(Path("/proc"))


def test_an_embedded_libvirt_is_prepared_and_forgets_earlier_guests(short_path: Path) -> None:
    root, probe = short_path / "r", short_path / "probe"
    (root / "run" / "qemu").mkdir(parents=True)
    (root / "run" / "qemu" / "contree-1.xml").touch()
    (root / "cache").mkdir()
    for chosen in (embedded.CAPABILITY_FILTER, ""):
        embedded.prepare(root, probe_cache=probe, capability_filter=chosen)
        settings = (root / "etc" / "qemu.conf").read_text()
        assert ("capability_filters" in settings) == bool(chosen)
        assert 'stdio_handler = "file"' in settings
    assert list((root / "run").glob("*")) == []
    embedded.forget(root)
    assert (root / "cache").resolve() == probe


def test_an_embedded_libvirt_whose_sockets_would_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GuestFailure, match="choose a shorter one"):
        embedded.prepare(tmp_path / ("x" * 60), probe_cache=tmp_path, capability_filter="")
