"""Templates of random bytes in a directory, kept, opened, damaged and outdated."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from contree.adapters.microvm.hypervisor.domain_xml import DomainSpec, Role
from contree.adapters.microvm.templates.template import TEMPLATES_KEPT, TemplateStore, template_key

SETUP_SECTORS = 5
KERNEL = bytes(0x1F1) + bytes([SETUP_SECTORS]) + os.urandom(100_000)
SCRATCH = b"a blank file system" + bytes(9000)
RAM = bytes(8192) + b"ram" + bytes(9000)
SHAPE = DomainSpec(
    name="n", accelerator="tcg", memory_mib=256, vcpu_count=1, emulator="/q", machine="pc",
    kernel=Path("/k"), initramfs=Path("/i"), directory=Path("/d"), layers_vmdk=Path("/l"),
    scratch_image=Path("/s"), role=Role.CLONE, memory_file=Path("/m"),
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(tmp_path / "templates", "k1")


def make(store: TemplateStore, *, state: bytes = b"state") -> None:
    with store.partial() as partial:
        kernel = partial.with_suffix(".kernel.partial")
        kernel.write_bytes(KERNEL)
        store.ram_in(partial).write_bytes(RAM)
        store.state_in(partial).write_bytes(state)
        store.scratch_in(partial).write_bytes(SCRATCH)
        store.keep(partial, kernel=kernel)
        kernel.unlink()


def state_of(store: TemplateStore) -> bytes:
    template = store.load()
    assert template is not None
    fd = template.state.open_again()
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)
        template.close()


def test_what_is_kept_is_what_is_opened(store: TemplateStore, tmp_path: Path) -> None:
    assert store.load() is None
    make(store)
    template = store.load()
    assert template is not None
    assert template.memory_file.read_bytes() == RAM
    assert template.key == "k1"
    assert template.kernel.read_bytes() == KERNEL[: (1 + SETUP_SECTORS) * 512 + 4096]
    assert template.initrd.stat().st_size == 4
    template.close()
    unit = tmp_path / "templates" / "k1"
    assert {p.name for p in unit.iterdir()} == {
        "ram",
        "state",
        "scratch",
        "kernel",
        "initrd",
        "meta.json",
    }
    assert list((tmp_path / "templates").iterdir()) == [unit]


def test_the_first_of_two_makers_wins(store: TemplateStore) -> None:
    make(store, state=b"first")
    make(store, state=b"second")
    assert state_of(store) == b"first"


def flip_a_byte(unit: Path) -> None:
    ram = bytearray((unit / "ram").read_bytes())
    ram[8193] ^= 1
    (unit / "ram").write_bytes(ram)


DAMAGES: list[Callable[[Path], object]] = [
    flip_a_byte,
    lambda unit: (unit / "state").write_bytes(b"stat"),
    lambda unit: (unit / "state").unlink(),
    lambda unit: (unit / "kernel").write_bytes(b"HdrS"),
    lambda unit: (unit / "initrd").unlink(),
    lambda unit: (unit / "scratch").write_bytes(b"another"),
    lambda unit: (unit / "scratch").unlink(),
    lambda unit: (unit / "meta.json").write_text("{"),
    lambda unit: (unit / "meta.json").write_text(json.dumps({"key": "k1"})),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_template_is_removed(
    store: TemplateStore, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    make(store)
    unit = tmp_path / "templates" / "k1"
    damage(unit)
    assert store.load() is None
    assert not unit.exists()
    make(store)  # in its place
    assert state_of(store) == b"state"


def test_what_a_killed_maker_left_is_removed_and_what_is_being_made_stays(
    store: TemplateStore, tmp_path: Path
) -> None:
    left = tmp_path / "templates" / "k0.dead.partial"
    left.mkdir(parents=True)
    (left / "ram").write_bytes(RAM)
    live = tmp_path / "templates" / "k0.live.partial"
    live.mkdir()
    held = os.open(live, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with store.partial() as partial:
        assert not left.exists()
        assert live.exists()
    assert not partial.exists()
    os.close(held)


def test_only_the_newest_templates_are_kept(tmp_path: Path) -> None:
    for number in range(TEMPLATES_KEPT + 2):
        make(TemplateStore(tmp_path, f"k{number}"))
        os.utime(tmp_path / f"k{number}", (number, number))
    make(TemplateStore(tmp_path, "last"))
    kept = {path.name for path in tmp_path.iterdir()}
    assert len(kept) == TEMPLATES_KEPT
    assert {"last", f"k{TEMPLATES_KEPT + 1}"} <= kept


def test_all_that_a_state_depends_on_is_in_the_key() -> None:
    shapes = [
        SHAPE,
        replace(SHAPE, memory_mib=512),
        replace(SHAPE, vcpu_count=2),
        replace(SHAPE, accelerator="kvm"),
        replace(SHAPE, machine="q35"),
        replace(SHAPE, emulator="/other"),
    ]
    keys = [template_key(shape, facts=["kernel 1"]) for shape in shapes]
    keys.append(template_key(SHAPE, facts=["kernel 2"]))
    assert len(set(keys)) == len(keys)
    assert template_key(SHAPE, facts=["kernel 1"]) == keys[0]
