"""`contreed audit ...`: the log, asked, proven and checked."""

from __future__ import annotations

import argparse
from typing import Any

from contree.cli import audit_log, audit_proof


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    audit = commands.add_parser(
        "audit",
    )
    actions = audit.add_subparsers(title="actions", metavar="ACTION", required=True)
    audit_log.add_commands(actions, common)
    audit_proof.add_commands(actions, common)
