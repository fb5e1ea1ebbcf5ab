"""Tokens by the digest of their secret; the secret itself is nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contree.app.projection import Change, Database
from contree.app.reads import TokenRow
from contree.domain.aggregate import Event
from contree.domain.token import TokenIssued, TokenRevoked

INSERT = (
    "INSERT INTO tokens "
    "(token_id, project_id, secret_sha256, permissions, created_at, expires_at) "
    "VALUES ($1, $2, $3, $4, $5, $6)"
)
REVOKE = "UPDATE tokens SET revoked_at = $2 WHERE token_id = $1"
SELECT = (
    "SELECT t.token_id, t.project_id, coalesce(p.name, '') AS project_name, t.permissions, "
    "t.created_at, t.expires_at, t.revoked_at FROM tokens t LEFT JOIN projects p USING (project_id)"
)


class TokensProjection:
    """The table `tokens`. Revoked and expired ones stay, for the list."""

    tables: tuple[str, ...] = ("tokens",)
    ddl = """
CREATE TABLE IF NOT EXISTS tokens (
    token_id      uuid        PRIMARY KEY,
    project_id    uuid        NOT NULL,
    secret_sha256 text        NOT NULL,
    permissions   text[]      NOT NULL,
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz,
    revoked_at    timestamptz
);
CREATE INDEX IF NOT EXISTS tokens_secret_idx ON tokens (secret_sha256);
"""

    def apply(self, event: Event) -> Sequence[Change]:
        row = ("tokens", event.originator_id)
        match event:
            case TokenIssued():
                arguments: tuple[Any, ...] = (
                    event.originator_id,
                    event.project_id,
                    event.secret_sha256,
                    event.permissions,
                    event.timestamp,
                    event.expires_at,
                )
                return (Change(statement=INSERT, arguments=arguments, row=row),)
            case TokenRevoked():
                arguments = (event.originator_id, event.timestamp)
                return (Change(statement=REVOKE, arguments=arguments, row=row),)
            case _:
                return ()


class SqlTokenReads:
    """app.reads.TokenReads over `tokens` and `projects`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_secret_sha256(self, secret_sha256: str) -> TokenRow | None:
        row = await self._database.fetchrow(f"{SELECT} WHERE t.secret_sha256 = $1", secret_sha256)
        return None if row is None else _token_row(row)

    async def list(self) -> Sequence[TokenRow]:
        rows = await self._database.fetch(f"{SELECT} ORDER BY t.created_at DESC, t.token_id DESC")
        return [_token_row(row) for row in rows]


def _token_row(row: Mapping[str, Any]) -> TokenRow:
    return TokenRow(**{**row, "permissions": frozenset(row["permissions"])})
