"""Who is calling: from a bearer secret to a caller with a project and permissions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from contree.app.clock import Clock
from contree.app.reads import TokenReads, TokenRow
from contree.domain.context import Context
from contree.domain.errors import (
    ContentErasedError,
    PermissionMissingError,
    UnauthenticatedError,
)
from contree.domain.token import READING, Permission

OPERATOR = "operator"
"""The actor of what is done on the command line."""


def secret_sha256(secret: str) -> str:
    """What the log keeps of a bearer secret (hex). The secrets are random: no salt is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated request."""

    token: TokenRow
    request_id: str

    @property
    def project_id(self) -> UUID:
        return self.token.project_id

    @property
    def actor(self) -> str:
        return str(self.token.token_id)

    def require(self, permission: Permission) -> None:
        """Raise ContentErasedError when the project is erased and `permission` is to do more than
        read, PermissionMissingError unless the token has it.
        """
        if self.token.erased_at is not None and permission.value not in READING:
            raise ContentErasedError(self.token.erased_at)
        if permission.value not in self.token.permissions:
            raise PermissionMissingError(permission.value)

    def context(self, at: datetime) -> Context:
        return Context(
            actor=self.actor, project_id=self.project_id, request_id=self.request_id, at=at
        )


class Requester(Protocol):
    """Whoever asks for something in one project: a Caller, or the Operator."""

    @property
    def project_id(self) -> UUID: ...

    def require(self, permission: Permission) -> None:
        """Raise PermissionMissingError unless it has `permission`."""
        ...

    def context(self, at: datetime) -> Context: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Whoever runs `contreed` on the server: may do everything, in the project at hand."""

    project_id: UUID
    request_id: str

    def require(self, permission: Permission) -> None:
        """Nothing is missing."""

    def context(self, at: datetime) -> Context:
        return Context(
            actor=OPERATOR, project_id=self.project_id, request_id=self.request_id, at=at
        )


class Access:
    """Checks tokens."""

    def __init__(self, *, tokens: TokenReads, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    async def authenticate(self, secret: str, *, project: str | None, request_id: str) -> Caller:
        """Return the caller that `secret` belongs to.

        `project` is what the request names, by id or name; it must be the token's own.
        Raises UnauthenticatedError, in words that tell nothing of other projects.
        """
        token = await self._tokens.by_secret_sha256(secret_sha256(secret))
        if token is None:
            raise UnauthenticatedError("the token is not known here, or was revoked")
        if token.revoked_at is not None:
            raise UnauthenticatedError("the token is not known here, or was revoked")
        if token.expires_at is not None and token.expires_at <= self._clock.now():
            raise UnauthenticatedError("the token has expired")
        if project and project not in {token.project_name, str(token.project_id)}:
            raise UnauthenticatedError("Project: the token does not belong to this project")
        return Caller(token=token, request_id=request_id)

    async def require_still_good(self, caller: Caller) -> None:
        """Raise UnauthenticatedError once the caller's token is revoked or has expired.

        For what goes on long after it was authenticated.
        """
        token = caller.token
        if token.expires_at is not None and token.expires_at <= self._clock.now():
            raise UnauthenticatedError("the token has expired")
        if token.token_id not in await self._tokens.active_of(token.project_id):
            raise UnauthenticatedError("the token was revoked")
