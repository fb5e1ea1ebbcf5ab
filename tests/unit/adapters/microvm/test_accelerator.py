"""`KvmProbe` with a device, a clock and guests that the test makes."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contree.adapters.microvm.hypervisor import accelerator
from contree.adapters.microvm.hypervisor.accelerator import (
    DISBELIEF_S,
    Choice,
    KvmProbe,
    host_key,
)
from contree.domain.errors import GuestFailure

KVM = Choice(accelerator="kvm")
BROKEN = "no READY in 10 s"


@dataclass
class Host:
    """A machine with a KVM device; `boots` are the times that probe guests were given."""

    place: Path
    works: bool = True
    now_s: float = 1_000_000.0
    boots: list[float] = field(default_factory=list)

    @property
    def device(self) -> Path:
        return self.place / "kvm"

    @property
    def record(self) -> Path:
        return self.place / "sub" / "verdict.json"

    async def boot(self, within_s: float) -> None:
        self.boots.append(within_s)
        if not self.works:
            raise GuestFailure(BROKEN.replace(" in", "\nin"))

    async def chosen(
        self, wanted: str = "auto", *, host: str = "h", timeout_s: float | None = None
    ) -> Choice:
        return await self.probe(timeout_s).choose(wanted, host=host)

    def probe(self, timeout_s: float | None = None) -> KvmProbe:
        return KvmProbe(
            self.boot,
            record=self.record,
            timeout_s=timeout_s,
            device=self.device,
            clock=lambda: self.now_s,
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.device.touch()
    return made


async def test_that_kvm_works_is_believed_for_its_host_until_asked_again(host: Host) -> None:
    assert await host.chosen() == KVM
    host.now_s += 100 * DISBELIEF_S
    assert await host.chosen() == KVM
    assert await host.chosen("kvm") == KVM
    assert len(host.boots) == 1
    assert await host.chosen(host="other") == KVM
    assert await host.probe().choose("auto", host="other", anew=True) == KVM
    assert len(host.boots) == 3


async def test_that_it_does_not_work_is_believed_for_an_hour_and_told_each_time(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.works = False
    caplog.set_level(logging.DEBUG)
    for passed_s, boots in ((0, 1), (DISBELIEF_S - 1, 1), (1, 2), (-1, 3)):
        host.now_s += passed_s  # the last time backwards: then it is not known how old it is
        caplog.clear()
        assert await host.chosen() == Choice(accelerator="tcg", why_not_kvm=BROKEN)
        assert len(host.boots) == boots
        [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert warning.startswith(f"KVM does not work here ({BROKEN}): guests run under TCG")
        [why] = [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]
        assert (BROKEN in why, str(host.record) in why) == (True, True)
    host.works = True
    host.now_s += DISBELIEF_S
    assert await host.chosen() == KVM


async def test_kvm_that_is_demanded_is_asked_at_each_start_and_not_replaced(host: Host) -> None:
    host.works = False
    for boots in (1, 2):
        with pytest.raises(GuestFailure) as refused:
            await host.chosen("kvm")
        assert len(host.boots) == boots
        assert str(refused.value) == (
            f"accelerator=kvm was asked for, but KVM does not work here: {BROKEN}. Make "
            f"{host.device} usable, or set kvm_probe_timeout higher for a slow host, or set "
            "accelerator to tcg or auto"
        )
    host.works = True
    assert await host.chosen("kvm") == KVM


async def test_a_verdict_asked_anew_takes_the_place_of_a_wrong_one(host: Host) -> None:
    host.works = False
    await host.chosen()
    host.works = True
    assert await host.probe().choose("auto", host="h", anew=True) == KVM
    assert await host.chosen() == KVM
    assert len(host.boots) == 2


@pytest.mark.parametrize(
    ("wanted", "given", "within_s"),
    [("auto", None, 10.0), ("kvm", None, 30.0), ("auto", 90.0, 90.0), ("kvm", 2.5, 2.5)],
)
async def test_a_probe_guest_has_its_time(
    host: Host, wanted: str, given: float | None, within_s: float
) -> None:
    assert await host.chosen(wanted, timeout_s=given) == KVM
    assert host.boots == [within_s]


async def test_without_a_device_nothing_is_booted(host: Host) -> None:
    host.device.unlink()
    reason = f"there is no {host.device}"
    assert await host.chosen() == Choice(accelerator="tcg", why_not_kvm=reason)
    assert host.boots == []


@pytest.mark.skipif(os.geteuid() == 0, reason="every device is root's to use")
async def test_a_device_of_others_is_told_apart_from_none(host: Host) -> None:
    host.device.chmod(0)
    reason = f"{host.device} is not ours to use"
    assert await host.chosen() == Choice(accelerator="tcg", why_not_kvm=reason)


@pytest.mark.parametrize("wanted", ["auto", "tcg"])
async def test_it_is_said_that_emulation_is_no_boundary(
    host: Host, wanted: str, caplog: pytest.LogCaptureFixture
) -> None:
    host.works = False
    await host.chosen(wanted)
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "no boundary that QEMU supports" in warning


async def test_tcg_needs_no_probe_and_leaves_no_record(host: Host) -> None:
    reason = "the setting accelerator is tcg"
    assert await host.chosen("tcg") == Choice(accelerator="tcg", why_not_kvm=reason)
    assert host.boots == []
    assert not host.record.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"host": "h", "verdict": true}',
        '{"host": "h", "kvm_works": false, "reason": "by an earlier release"}',
    ],
)
async def test_a_record_of_another_version_is_asked_anew(host: Host, text: str) -> None:
    host.record.parent.mkdir()
    host.record.write_text(text)
    assert await host.chosen() == KVM
    assert json.loads(host.record.read_text()) == {
        "host": "h", "kvm_works": True, "reason": "", "asked_s": host.now_s,
    }  # fmt: skip


async def test_an_unknown_accelerator_is_refused(host: Host) -> None:
    with pytest.raises(ValueError, match="accelerator='hax'"):
        await host.chosen("hax")


def test_a_host_is_known_by_emulator_kernel_build_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, machine_id = tmp_path / "one", tmp_path / "two", tmp_path / "machine-id"
    one.write_text("1")
    two.write_text("22")
    monkeypatch.setattr(accelerator, "_MACHINE_ID", machine_id)
    keys = [host_key(one), host_key(two)]
    machine_id.write_text("a\n")
    keys.append(host_key(one))
    machine_id.write_text("b\n")
    keys.append(host_key(one))
    assert host_key(one) == keys[-1]
    system = os.uname()
    rebuilt = os.uname_result((*system[:3], f"{system.version} again", system.machine))
    monkeypatch.setattr(os, "uname", lambda: rebuilt)
    keys.append(host_key(one))
    assert len(set(keys)) == len(keys)
