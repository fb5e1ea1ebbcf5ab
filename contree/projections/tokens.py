"""Tokens by the digest of their secret; the secret itself is nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from contree.app.projection import Change, Database
from contree.app.reads import TokenRow
from contree.domain.aggregate import Event
from contree.domain.token import TokenIssued, TokenRevoked
from contree.projections.together import Together

INSERT = (
    "INSERT INTO tokens "
    "(token_id, project_id, secret_sha256, permissions, created_at, expires_at) "
    "VALUES ($1, $2, $3, $4, $5, $6)"
)
REVOKE = "UPDATE tokens SET revoked_at = $2 WHERE token_id = $1"
SELECT = (
    "SELECT t.secret_sha256, t.token_id, t.project_id, coalesce(p.name, '') AS project_name, "
    "t.permissions, t.created_at, t.expires_at, t.revoked_at, p.content_cut, p.erased_at "
    "FROM tokens t LEFT JOIN projects p USING (project_id)"
)
ACTIVE = (
    "SELECT token_id FROM tokens WHERE project_id = $1 AND revoked_at IS NULL ORDER BY token_id"
)
BY_SECRET = f"{SELECT} WHERE t.secret_sha256"


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
        self._by_secret = Together(self._of)

    async def by_secret_sha256(self, secret_sha256: str) -> TokenRow | None:
        return await self._by_secret.get(secret_sha256)

    async def _of(self, secrets: Sequence[str]) -> Mapping[str, TokenRow]:
        if len(secrets) == 1:  # a plan that is made once, whatever the key
            rows = await self._database.fetch(f"{BY_SECRET} = $1", secrets[0])
        else:
            rows = await self._database.fetch(f"{BY_SECRET} = ANY($1::text[])", secrets)
        return {row["secret_sha256"]: _token_row(row) for row in rows}

    async def list(self) -> Sequence[TokenRow]:
        rows = await self._database.fetch(f"{SELECT} ORDER BY t.created_at DESC, t.token_id DESC")
        return [_token_row(row) for row in rows]

    async def active_of(self, project_id: UUID) -> Sequence[UUID]:
        rows = await self._database.fetch(ACTIVE, project_id)
        return [row["token_id"] for row in rows]


def _token_row(row: Mapping[str, Any]) -> TokenRow:
    return TokenRow(
        token_id=row["token_id"],
        project_id=row["project_id"],
        project_name=row["project_name"],
        permissions=frozenset(row["permissions"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        content_cut=row["content_cut"],
        erased_at=row["erased_at"],
    )
