"""Guests whose kernel is told a wrong rate of its clock, as a busy machine lets it measure one."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

from contree.adapters.microvm import booting
from contree.adapters.microvm import machine as machine_module
from contree.adapters.microvm.hypervisor.domain_xml import DomainSpec, Role, domain_xml
from contree.adapters.microvm.runner import LibvirtMicroVM
from contree.app.guest.microvm import Origin
from contree.domain.errors import GuestFailure
from tests.vm.conversation import Conversation
from tests.vm.fixtures import guest_spec
from tests.vm.test_template import another, keeper, template

pytestmark = pytest.mark.vm

WRONG = "tsc_early_khz=100000"
"""Some 20 to 40 times too fast; Linux corrects only what is within a hundredth."""
FAULT = r"its clock runs [\d.]+ to [\d.]+ times as fast as the host's"


class WrongClocks:
    """In the place of `domain_xml`: the first `count` guests that boot get a wrong clock."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.boots = 0

    def __call__(self, spec: DomainSpec) -> str:
        xml = domain_xml(spec)
        if spec.role is Role.CLONE:
            return xml
        self.boots += 1
        wrong = self.boots <= self.count
        return xml.replace("<cmdline>", f"<cmdline>{WRONG} ") if wrong else xml


@pytest.fixture
async def tcg(microvm: LibvirtMicroVM) -> LibvirtMicroVM:
    """Boots nothing of its own any more."""
    if microvm.chosen.accelerator != "tcg":
        pytest.skip("guests of KVM have the host's clock, whatever they take the TSC for")
    await template(microvm)
    return microvm


async def test_a_template_with_a_wrong_clock_is_made_anew(
    tcg: LibvirtMicroVM,
    base_layer: Path,
    short_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = short_dir / "clock-cache"
    clocks = WrongClocks(1)
    monkeypatch.setattr(machine_module, "domain_xml", clocks)
    async with another(tcg, short_dir, cache) as fresh:
        began_s = time.monotonic()
        async with fresh.start(guest_spec(base_layer)) as guest:
            assert guest.info.origin is Origin.TEMPLATE
            done = await Conversation(guest).sh("sleep 1; cut -d' ' -f1 /proc/uptime")
        assert done.exited is not None
        assert 1_000_000 <= done.exited.duration_us <= (time.monotonic() - began_s) * 1e6
        assert keeper(fresh).counts.built == 1
    assert clocks.boots == 2
    assert len(re.findall(rf"guest contree-\w+ is refused: {FAULT}", caplog.text)) == 1
    shutil.rmtree(cache)


async def test_a_run_gets_no_guest_with_a_wrong_clock(
    tcg: LibvirtMicroVM, base_layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = WrongClocks(2)
    monkeypatch.setattr(tcg, "templates", None)
    monkeypatch.setattr(booting, "BOOTS_MAX", 2)
    monkeypatch.setattr(machine_module, "domain_xml", clocks)
    with pytest.raises(GuestFailure, match=f"booted 2 times, and {FAULT}") as failure:
        async with tcg.start(guest_spec(base_layer)):
            pass
    assert failure.value.retryable
    assert clocks.boots == 2
