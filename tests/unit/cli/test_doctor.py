"""What `doctor` says of what it found. What it finds is tried in tests/acceptance."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import stat
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from contree.app.guest.microvm import GuestInfo, Origin
from contree.cli import doctor, kvm_remedy
from contree.cli.doctor import Finding, Level, guest_finding, kvm_finding, started_text
from contree.cli.kvm_remedy import KVM_DEVICE, kvm_access

INFO = GuestInfo(
    accelerator="tcg",
    kernel="6.1.0",
    machine="x86_64",
    boot_id=UUID(int=1),
    init_pid=1,
    started_at=datetime(2026, 1, 2, tzinfo=UTC),
    origin=Origin.TEMPLATE,
)


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding(subject="a", detail="b", remedy="c"), "ok      a: b\n"),
        (Finding(subject="a", detail="b", level=Level.WARN), "warn    a: b\n"),
        (
            Finding(subject="a", detail="b", level=Level.MISSING, remedy="c"),
            "MISSING a: b\n        c\n",
        ),
    ],
)
def test_a_finding_has_its_remedy_below_it_when_there_is_need(finding: Finding, text: str) -> None:
    assert str(finding) == text


def test_guests_are_counted_by_origin_under_whatever_they_ran() -> None:
    started = Counter({("warm", "kvm"): 2, ("cold", "tcg"): 1, ("template", "tcg"): 3})
    started["template", "kvm"] = 4
    assert started_text(started) == (
        "guests started in the last 24 hours: 1 booted cold, 7 from template, 2 from warm"
    )
    assert started_text(Counter()) == "guests started in the last 24 hours: none"


def test_a_probe_guest_that_booted_though_a_template_was_made_is_not_well() -> None:
    assert guest_finding(INFO, no_template="") == Finding(
        subject="guest", detail="from template, Linux 6.1.0 under tcg"
    )
    cold = guest_finding(replace(INFO, origin=Origin.COLD), no_template="MSR 0x345 is refused")
    assert cold.level is Level.WARN
    assert cold.detail == (
        "booted cold, Linux 6.1.0 under tcg, though guests should be restored: MSR 0x345 is refused"
    )


@pytest.mark.parametrize(
    ("mode", "why_not", "remedy"),
    [
        (None, "the setting accelerator is tcg", "set accelerator to auto"),
        (None, "there is no /dev/kvm", "switch virtualisation on in the firmware, or nesting "),
        (0o600, "no answer to HELLO", "a slow host may need a longer kvm_probe_timeout; a broken "),
    ],
)
def test_emulated_guests_are_a_warning_with_what_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None, why_not: str, remedy: str
) -> None:
    device = tmp_path / "kvm"
    monkeypatch.setattr(kvm_remedy, "KVM_DEVICE", device)
    if mode is not None:
        device.touch(mode=mode)
    found = kvm_finding(why_not)
    assert (found.level, found.subject) == (Level.WARN, "kvm")
    assert found.detail == (
        f"not used: {why_not}; guests are emulated: many times slower, and no boundary that QEMU "
        "supports for isolation, so not for hostile code"
    )
    assert found.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("group", "mode", "remedy"),
    [
        ("daemon", 0o660, "usermod -aG daemon {us}, and log in again"),
        (
            "daemon",
            0o640,
            "chgrp kvm {kvm}; chmod 660 {kvm}; usermod -aG kvm {us}, and log in again",
        ),
        ("root", 0o660, "chgrp kvm {kvm}; chmod 660 {kvm}; usermod -aG kvm {us}, and log in again"),
    ],
)
def test_whoever_may_not_use_the_device_is_told_how_they_may(
    group: str, mode: int, remedy: str
) -> None:
    fields = [stat.S_IFCHR | mode, 1, 1, 1, 0, grp.getgrnam(group).gr_gid, 0, 0, 0, 0]
    us = pwd.getpwuid(os.geteuid()).pw_name
    assert kvm_access(os.stat_result(fields)) == remedy.format(kvm=KVM_DEVICE, us=us)


def test_kvm_that_is_used_is_well() -> None:
    assert kvm_finding("") == Finding(subject="kvm", detail="guests run under it")


def test_what_is_logged_meanwhile_is_kept_until_it_is_asked_for() -> None:
    shown: list[str] = []

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(record.getMessage())

    root, handler = logging.getLogger(), Shown()
    before = root.handlers[:]
    root.handlers[:] = [handler]
    try:
        with doctor._log_kept_back() as kept:
            logging.getLogger("contree.test").warning("forgotten")
            assert shown == []
        assert root.handlers == [handler]
        with doctor._log_kept_back() as kept:
            logging.getLogger("contree.test").error("critical even")
            logging.getLogger("contree.test").critical("more")
            kept.flush()
        with suppress(ZeroDivisionError), doctor._log_kept_back():
            logging.getLogger("contree.test").warning("before a defect")
            raise ZeroDivisionError
    finally:
        root.handlers[:] = before
    assert shown == ["critical even", "more", "before a defect"]
