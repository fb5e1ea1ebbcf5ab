"""The Token aggregate: what a bearer of a secret may do in one project, and until when.

The secret itself is shown once and never stored; the log holds its SHA-256.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from contree.domain.aggregate import Aggregate, Created, Event, register
from contree.domain.context import Context
from contree.domain.errors import InvalidFieldError, InvalidTransitionError


class Permission(StrEnum):
    """What a token may be allowed; the names are the API's."""

    IMPORT = "import"
    SPAWN = "spawn"
    SPAWN_DISPOSABLE = "spawn_disposable"
    LIST = "list"
    CANCEL = "cancel"
    SET_IMAGE_TAG = "set_image_tag"
    AUDIT = "audit"


DEFAULT_PERMISSIONS = tuple(p for p in Permission if p is not Permission.AUDIT)
"""What a token may do when nothing else is asked for: working, but not looking into the history."""


READING = frozenset({"list", "audit"})
"""What a token of an erased project may still do: read the facts that remain."""


def parse_permissions(names: Sequence[str]) -> list[Permission]:
    """Return the named permissions, sorted, without duplicates.

    Raises InvalidFieldError naming the first unknown one.
    """
    for name in names:
        if name not in {p.value for p in Permission}:
            known = ", ".join(p.value for p in Permission)
            raise InvalidFieldError(
                "permissions", f"unknown permission '{name}', use any of {known}"
            )
    return sorted({Permission(name) for name in names})


class TokenIssued(Created):
    """Recorded when an operator makes a token. `secret_sha256` is hex."""

    TOPIC = "contree.token.issued"
    secret_sha256: str
    permissions: list[str]
    expires_at: datetime | None


class TokenRevoked(Event):
    """Recorded when an operator withdraws a token; it never authenticates again."""

    TOPIC = "contree.token.revoked"

    def apply(self, aggregate: Token) -> None:
        aggregate.revoked = True


class Token(Aggregate):
    """One bearer token."""

    TOPIC = "contree.token"
    OVERWRITES = True

    def __init__(
        self,
        secret_sha256: str,
        permissions: list[str],
        expires_at: datetime | None,
        project_id: UUID,
    ) -> None:
        self.secret_sha256 = secret_sha256
        self.permissions = permissions
        self.expires_at = expires_at
        self.project_id = project_id
        self.revoked = False

    @classmethod
    def issue(
        cls,
        context: Context,
        *,
        token_id: UUID,
        secret_sha256: str,
        permissions: Sequence[Permission],
        expires_at: datetime | None,
    ) -> Token:
        return cls._begin(
            TokenIssued,
            context,
            token_id,
            secret_sha256=secret_sha256,
            permissions=[p.value for p in permissions],
            expires_at=expires_at,
        )

    def revoke(self, context: Context) -> None:
        """Raise InvalidTransitionError when it is revoked already."""
        if self.revoked:
            raise InvalidTransitionError(f"token {self.id} is revoked already")
        self._record(TokenRevoked, context)


register(Token, TokenIssued, TokenRevoked)
