"""`contreed doctor`: can this machine run guests, and what is missing if not.

One line for each thing that was looked at, on standard output; what is being looked at, and at the
end what was logged meanwhile, on standard error.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from contree import bootstrap, programs
from contree.app.guest.microvm import GuestInfo, GuestSpec, Origin
from contree.app.images.layer_store import MountPlan
from contree.cli.kvm_remedy import kvm_remedy
from contree.cli.output import add_json, show_json
from contree.config import Settings
from contree.domain.errors import ContreeError

DISK_FREE_BYTES_MIN = 5 * 1024**3
COUNTED = timedelta(hours=24)
LINES_KEPT = 10_000

PROBE = GuestSpec(
    run_id=UUID(int=0),
    mounts=MountPlan(squashfs=()),
    hostname="probe",
    max_layer_bytes=1024**2,
)
"""A guest without any layer, in a place of its own: no other is called so there."""


class Level(Enum):
    """OK; WARN: guests run, but not as they could; MISSING: none run, or what is asked fails."""

    OK = "ok"
    WARN = "warn"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do when it is not ok."""

    subject: str
    level: Level = Level.OK
    detail: str
    remedy: str = ""

    @property
    def value(self) -> dict[str, str | None]:
        """The same in JSON; `level` in lower case."""
        remedy = None if self.level is Level.OK else self.remedy or None
        return {
            "subject": self.subject,
            "level": self.level.value.lower(),
            "detail": self.detail,
            "remedy": remedy,
        }

    def __str__(self) -> str:
        line = f"{self.level.value:<7} {self.subject}: {self.detail}\n"
        if self.level is Level.OK or not self.remedy:
            return line
        return f"{line}        {self.remedy}\n"


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        epilog="Exit status: 0 guests can run (there may be warnings), 1 something is missing, "
        "2 wrong usage.",
    )
    parser.add_argument("--libvirt-uri", metavar="URI", help="default: QEMU embedded here")
    parser.add_argument("--accelerator", metavar="NAME", help="auto, kvm or tcg")
    add_json(parser, what="one JSON object a line, for each thing that was looked at")
    parser.set_defaults(command=_doctor)


async def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    levels = set()
    with _log_kept_back() as kept:
        async for finding in _findings(settings):
            levels.add(finding.level)
            if arguments.json:
                show_json(finding.value)
                continue
            sys.stdout.write(str(finding))
            sys.stdout.flush()
    is_well = Level.MISSING not in levels
    if not arguments.json:
        said = "this machine can run guests" if is_well else "see what is missing above"
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
    if not is_well or settings.log_level == "DEBUG":
        kept.flush()
    return 0 if is_well else 1


@contextmanager
def _log_kept_back() -> Iterator[MemoryHandler]:
    """Keep what is logged out of the table; `flush` writes it. With it goes what may explain."""
    root = logging.getLogger()
    shown = root.handlers[:]
    kept = MemoryHandler(
        LINES_KEPT,
        flushLevel=logging.CRITICAL + 1,
        target=shown[0] if shown else None,
        flushOnClose=False,
    )
    root.handlers[:] = [kept]
    try:
        yield kept
    except BaseException:
        kept.flush()
        raise
    finally:
        root.handlers[:] = shown


async def _findings(settings: Settings) -> AsyncIterator[Finding]:
    for finding in _programs():
        yield finding
    disk = _disk(settings)
    yield disk
    yield _room(settings)
    if disk.level is Level.MISSING:
        yield _not_tried("database", "for want of disk space")
    else:
        _tell("looking at the database")
        yield await _database(settings)
    if disk.level is Level.MISSING or programs.lacking():
        yield _not_tried("guest", "for want of what is missing above")
        return
    _tell("starting a probe guest: seconds, or a minute where guests are emulated")
    async for finding in _guest(settings):
        yield finding


def _not_tried(subject: str, why: str) -> Finding:
    return Finding(subject=subject, level=Level.WARN, detail=f"not tried, {why}")


def _tell(doing: str) -> None:
    sys.stderr.write(f"... {doing}\n")
    sys.stderr.flush()


def _programs() -> list[Finding]:
    findings = []
    for program in programs.ALL:
        found = program.find()
        findings.append(
            Finding(
                subject=program.name,
                level=Level.MISSING if found is None else Level.OK,
                detail=found or f"not found; it {program.purpose}",
                remedy=program.remedy,
            )
        )
    return findings


def _disk(settings: Settings) -> Finding:
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    free_bytes = shutil.disk_usage(place).free
    return Finding(
        subject="disk",
        level=Level.OK if free_bytes >= DISK_FREE_BYTES_MIN else Level.MISSING,
        detail=f"{free_bytes / 1024**3:.1f} GiB free for {settings.data_dir}",
        remedy=f"have {DISK_FREE_BYTES_MIN / 1024**3:.0f} GiB free, or choose another --data-dir",
    )


def _room(settings: Settings) -> Finding:
    """How many runs a worker would take on here beside what else runs now."""
    room = bootstrap.room(settings)
    detail = f"{room.more} at once, bounded by {room.bound}: {room.reason}"
    if settings.warm_guests:
        waiting = bootstrap.waiting(settings)
        detail += f"; memory for {waiting} of {settings.warm_guests} warm guests beside them"
    return Finding(subject="room", detail=detail)


@contextmanager
def _aside(settings: Settings) -> Iterator[Settings]:
    """The same settings in a place of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="contree-doctor-") as directory:
        yield msgspec.structs.replace(settings, data_dir=Path(directory))


async def _database(settings: Settings) -> Finding:
    """The configured database, the running embedded one, or a trial of the embedded one."""
    try:
        with _aside(settings) as trial:
            chosen = settings if bootstrap.is_installed(settings) else trial
            async with bootstrap.database(chosen) as urls, bootstrap.core(chosen, urls) as core:
                version = await core.database.version()
                started = await core.history.starts.since(core.clock.now() - COUNTED)
        return Finding(subject="database", detail=f"{version}; {started_text(started)}")
    except ContreeError as error:
        return Finding(
            subject="database",
            level=Level.MISSING,
            detail=str(error),
            remedy="set CONTREED_DATABASE_URL, or mend what the message names",
        )


def started_text(started: Counter[tuple[str, str]]) -> str:
    """Say how many guests came from where: next to none are cold, if all is well."""
    by_origin: Counter[str] = Counter()
    for (origin, _), count in started.items():
        by_origin[origin] += count
    text = ", ".join(f"{by_origin[origin]} {origin_text(origin)}" for origin in sorted(by_origin))
    return f"guests started in the last 24 hours: {text or 'none'}"


def origin_text(origin: str) -> str:
    return "booted cold" if origin == Origin.COLD else f"from {origin}"


async def _guest(settings: Settings) -> AsyncIterator[Finding]:
    """Start a probe guest, in a place of its own so that a running server is not disturbed."""
    # An earlier verdict on KVM does not count; where there is one, ours takes its place.
    record = settings.data_dir / "cache" / "accelerator.json"
    kvm_record = record if record.exists() else None
    try:
        with _aside(settings) as trial:
            async with (
                bootstrap.microvm(trial, reprobe=True, kvm_record=kvm_record) as machines,
                machines.start(PROBE) as guest,
            ):
                info, chosen = guest.info, machines.chosen
                no_template = "" if machines.templates is None else machines.templates.problem
    except ContreeError as error:
        yield Finding(subject="guest", level=Level.MISSING, detail=str(error))
        return
    yield guest_finding(info, no_template=no_template)
    yield kvm_finding(chosen.why_not_kvm)


def guest_finding(info: GuestInfo, *, no_template: str) -> Finding:
    """Say what came up: it should be restored from the template that was made before it."""
    detail = f"{origin_text(info.origin)}, Linux {info.kernel} under {info.accelerator}"
    if info.origin is not Origin.COLD:
        return Finding(subject="guest", detail=detail)
    return Finding(
        subject="guest",
        level=Level.WARN,
        detail=f"{detail}, though guests should be restored: {no_template}",
        remedy="each run waits for a boot until the template works: see The guest template in "
        "docs/operations.md",
    )


def kvm_finding(why_not: str) -> Finding:
    """Say why guests are emulated, and what could be done about it."""
    if not why_not:
        return Finding(subject="kvm", detail="guests run under it")
    return Finding(
        subject="kvm",
        level=Level.WARN,
        detail=f"not used: {why_not}; guests are emulated: many times slower, and no boundary that "
        "QEMU supports for isolation, so not for hostile code",
        remedy=kvm_remedy(why_not),
    )
