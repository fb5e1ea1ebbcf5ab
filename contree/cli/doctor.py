"""`contreed doctor`: can this machine run guests, and what is missing if not."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from contree import bootstrap
from contree.app.guest.microvm import GuestSpec
from contree.app.images.layer_store import MountPlan
from contree.config import Settings
from contree.domain.errors import ContreeError

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "skopeo": "skopeo",
    "rg": "ripgrep",
    "sqfstar": "squashfs-tools",
    "mke2fs": "e2fsprogs",
}
"""Programs we run, and the Debian package that has each."""
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
STARTED_BY_ORIGIN = """
SELECT convert_from(state, 'UTF8')::json ->> 'origin' AS origin, count(*) AS count
FROM public.stored_events
WHERE topic = 'contree.operation.started' AND recorded_at > now() - interval '24 hours'
    AND convert_from(state, 'UTF8')::json ->> 'origin' IS NOT NULL
GROUP BY origin ORDER BY origin DESC
"""
"""Cold are those whose restore failed, or that had no template: next to none, if all is well."""

DISK_FREE_BYTES_MIN = 5 * 1024**3

PROBE = GuestSpec(
    run_id=UUID(int=0),
    mounts=MountPlan(squashfs=()),
    hostname="probe",
    max_layer_bytes=1024**2,
)
"""A guest without any layer, in a place of its own: no other is called so there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do when it is not ok."""

    subject: str
    ok: bool
    detail: str
    remedy: str = ""


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    parser = commands.add_parser(
        "doctor", parents=[common], help="check this machine, by booting a probe guest too"
    )
    parser.add_argument("--libvirt-uri", metavar="URI", help="default: QEMU embedded here")
    parser.add_argument("--accelerator", metavar="NAME", help="auto, kvm or tcg")
    parser.set_defaults(command=_doctor)


async def _doctor(settings: Settings, _: argparse.Namespace) -> int:
    healthy = True
    async for finding in _findings(settings):
        mark = "ok     " if finding.ok else "MISSING"
        sys.stdout.write(f"{mark} {finding.subject}: {finding.detail}\n")
        if not finding.ok:
            healthy = False
            sys.stdout.write(f"        {finding.remedy}\n")
        sys.stdout.flush()
    sys.stdout.write("this machine can run guests\n" if healthy else "see what is missing above\n")
    return 0 if healthy else 1


async def _findings(settings: Settings) -> AsyncIterator[Finding]:
    for finding in _tools():
        yield finding
    yield _disk(settings)
    yield _room(settings)
    yield await _database(settings)
    yield await _guest(settings)


def _tools() -> list[Finding]:
    findings = []
    for tool, package in TOOLS.items():
        found = shutil.which(tool) or shutil.which(tool, path=SBIN)
        findings.append(
            Finding(
                subject=tool,
                ok=found is not None,
                detail=found or "not found",
                remedy=f"apt-get install {package}",
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
        ok=free_bytes >= DISK_FREE_BYTES_MIN,
        detail=f"{free_bytes / 1024**3:.1f} GiB free for {settings.data_dir}",
        remedy="free some space, or choose another --data-dir",
    )


def _room(settings: Settings) -> Finding:
    """How many runs a worker would take on here beside what else runs now."""
    room = bootstrap.room(settings)
    detail = f"{room.more} at once, bounded by {room.bound}: {room.reason}"
    if settings.warm_guests:
        waiting = bootstrap.waiting(settings)
        detail += f"; memory for {waiting} of {settings.warm_guests} warm guests beside them"
    return Finding(subject="room", ok=True, detail=detail)


@contextmanager
def _aside(settings: Settings) -> Iterator[Settings]:
    """The same settings in a place of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="contree-doctor-") as directory:
        yield msgspec.structs.replace(settings, data_dir=Path(directory))


async def _database(settings: Settings) -> Finding:
    """The configured database, the running embedded one, or a trial of the embedded one."""
    try:
        with _aside(settings) as trial:
            given = settings.database_url is not None or settings.data_dir.exists()
            chosen = settings if given else trial
            async with bootstrap.database(chosen) as urls, bootstrap.core(chosen, urls) as core:
                row = await core.database.fetchrow("SELECT version() AS version")
                started = await core.database.fetch(STARTED_BY_ORIGIN)
        version = "" if row is None else str(row["version"]).split(" on ")[0]
        origins = ", ".join(f"{row['count']} from {row['origin']}" for row in started)
        return Finding(
            subject="database",
            ok=True,
            detail=f"{version}; guests started in the last 24 hours: {origins or 'none'}",
        )
    except ContreeError as error:
        return Finding(
            subject="database",
            ok=False,
            detail=str(error),
            remedy="set CONTREED_DATABASE_URL, or mend what the message names",
        )


async def _guest(settings: Settings) -> Finding:
    """Boot a probe guest, in a place of its own so that a running server is not disturbed."""
    try:
        with _aside(settings) as trial:
            # An earlier verdict on the accelerator does not count.
            async with (
                bootstrap.microvm(trial, reprobe=True) as machines,
                machines.start(PROBE) as guest,
            ):
                info = guest.info
                detail = f"booted Linux {info.kernel} under {info.accelerator}"
        return Finding(subject="guest", ok=True, detail=detail)
    except ContreeError as error:
        return Finding(
            subject="guest",
            ok=False,
            detail=str(error),
            remedy="run `make setup` in the source tree: it fetches the kernel, builds the agent",
        )
