"""`choose` with probes that the test makes succeed or fail."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from contree.adapters.microvm.hypervisor.accelerator import choose, host_key
from contree.domain.errors import GuestFailure


class Probe:
    def __init__(self, *, works: bool) -> None:
        self.works = works
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1
        if not self.works:
            raise GuestFailure("no READY\nin 10 s")


async def asked(
    probe: Probe, record: Path, wanted: str = "auto", *, host: str = "h", reprobe: bool = False
) -> str:
    return await choose(wanted, record=record, host=host, probe_kvm=probe, reprobe=reprobe)


needs_device = pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="no /dev/kvm to probe")


@needs_device
async def test_a_verdict_is_kept_for_its_host_until_asked_again(tmp_path: Path) -> None:
    record, probe = tmp_path / "sub" / "verdict.json", Probe(works=True)
    assert await asked(probe, record) == "kvm"
    assert await asked(probe, record) == "kvm"
    assert probe.count == 1
    assert await asked(probe, record, host="other") == "kvm"
    assert await asked(probe, record, host="other", reprobe=True) == "kvm"
    assert probe.count == 3


@needs_device
async def test_a_broken_kvm_falls_back_loudly_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record, probe = tmp_path / "verdict.json", Probe(works=False)
    for _ in range(2):
        caplog.clear()
        assert await asked(probe, record) == "tcg"
        [warning] = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert "no READY in 10 s" in warning.getMessage()
    assert probe.count == 1


async def test_kvm_that_was_demanded_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(GuestFailure, match="accelerator=kvm was asked for"):
        await asked(Probe(works=False), tmp_path / "v", "kvm")


async def test_tcg_needs_no_probe(tmp_path: Path) -> None:
    probe = Probe(works=True)
    assert await asked(probe, tmp_path / "v", "tcg") == "tcg"
    assert probe.count == 0


@needs_device
async def test_a_record_of_another_version_is_asked_anew(tmp_path: Path) -> None:
    record = tmp_path / "v"
    record.write_text('{"host": "h", "verdict": true}')
    probe = Probe(works=True)
    assert await asked(probe, record) == "kvm"
    assert probe.count == 1


async def test_an_unknown_accelerator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accelerator='hax'"):
        await asked(Probe(works=True), tmp_path / "v", "hax")


def test_the_host_is_known_by_its_emulator_too(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("22")
    assert host_key(one) == host_key(one)
    assert host_key(one) != host_key(two)
