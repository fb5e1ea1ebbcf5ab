"""`contreed doctor`: can this machine run guests, and what is missing if not."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from contree import bootstrap
from contree.config import Settings


def add_commands(
    commands: argparse._SubParsersAction[Any],  # noqa: SLF001 - argparse has no public name
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
    async for finding in bootstrap.diagnose(settings):
        mark = "ok     " if finding.ok else "MISSING"
        sys.stdout.write(f"{mark} {finding.subject}: {finding.detail}\n")
        if not finding.ok:
            healthy = False
            sys.stdout.write(f"        {finding.remedy}\n")
        sys.stdout.flush()
    sys.stdout.write("this machine can run guests\n" if healthy else "see what is missing above\n")
    return 0 if healthy else 1
