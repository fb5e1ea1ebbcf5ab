"""`contreed token create|list|revoke`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from contree import bootstrap
from contree.app.reads import TokenRow
from contree.app.short_ids import IdKind, parse_short_id
from contree.cli.output import add_json, show_list
from contree.config import Settings
from contree.domain.errors import InvalidFieldError
from contree.domain.token import DEFAULT_PERMISSIONS, Permission, parse_permissions

COLUMNS = ("token", "project", "state", "created", "expires", "permissions")


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    token = commands.add_parser(
        "token",
    )
    actions = token.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser("create", parents=[common], help="print a new token, once")
    create.add_argument("--project", required=True, metavar="NAME", help="created when it is new")
    create.add_argument(
        "--permissions",
        metavar="A,B",
        help=f"any of {', '.join(Permission)}; default: all but {Permission.AUDIT}",
    )
    create.add_argument("--expires-in-days", type=int, metavar="N", help="default: never expires")
    create.set_defaults(command=_create)
    listing = actions.add_parser("list", parents=[common], help="tokens, without their secrets")
    add_json(listing)
    listing.set_defaults(command=_list)
    revoke = actions.add_parser("revoke", parents=[common], help="withdraw a token for good")
    revoke.add_argument("token_id", metavar="TOKEN_ID", help="or how it begins")
    revoke.set_defaults(command=_revoke)


async def _create(settings: Settings, arguments: argparse.Namespace) -> None:
    permissions: list[Permission] = [*DEFAULT_PERMISSIONS]
    if arguments.permissions is not None:
        permissions = parse_permissions([p.strip() for p in arguments.permissions.split(",")])
    expires_at = None
    if arguments.expires_in_days is not None:
        if arguments.expires_in_days < 1:
            raise InvalidFieldError("expires-in-days", "must be 1 or more")
        expires_at = datetime.now(UTC) + timedelta(days=arguments.expires_in_days)
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
    ):
        secret = await bootstrap.issue_tokens(core).issue(
            project=arguments.project, permissions=permissions, expires_at=expires_at
        )
    sys.stdout.write(secret + "\n")


async def _list(settings: Settings, arguments: argparse.Namespace) -> None:
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
    ):
        rows = await core.tokens.list()
    listed = [
        {
            "token": row.token_id,
            "project": row.project_name,
            "state": _state(row),
            "created": row.created_at,
            "expires": row.expires_at,
            "permissions": sorted(row.permissions),
        }
        for row in rows
    ]
    show_list(COLUMNS, listed, as_json=arguments.json)


def _state(row: TokenRow) -> str:
    if row.revoked_at is not None:
        return "revoked"
    is_over = row.expires_at is not None and row.expires_at <= datetime.now(UTC)
    return "expired" if is_over else "active"


async def _revoke(settings: Settings, arguments: argparse.Namespace) -> None:
    typed = parse_short_id(arguments.token_id, field="TOKEN_ID")
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
    ):
        token_id = await typed.whole(IdKind.TOKEN, core.known_ids)
        await bootstrap.issue_tokens(core).revoke(token_id)
