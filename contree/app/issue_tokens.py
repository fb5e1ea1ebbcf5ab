"""Make and revoke tokens: the operator's command line, never the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from contree.app.access import OPERATOR, secret_sha256
from contree.app.clock import Clock, IdSource
from contree.app.event_log import EventLog
from contree.domain.context import Context
from contree.domain.errors import ConflictError, InvalidFieldError, NotFoundError
from contree.domain.project import Project, project_id_of
from contree.domain.token import READING, Permission, Token


class IssueTokens:
    """Tokens, and the projects they belong to."""

    def __init__(self, *, log: EventLog, clock: Clock, ids: IdSource) -> None:
        self._log = log
        self._clock = clock
        self._ids = ids

    async def issue(
        self, *, project: str, permissions: Sequence[Permission], expires_at: datetime | None
    ) -> str:
        """Return the secret of a new token; the project is created when it is new.

        Raises InvalidFieldError for a bad project name, and for permissions to do more than read in
        a project that was erased.
        """
        secret = self._ids.new_secret()
        context = self._context(project_id_of(project))
        there = await self._log.load(Project, context.project_id)
        erased_at = None if there is None else there.erased_at
        if erased_at is not None and not READING.issuperset(permissions):
            raise InvalidFieldError(
                "permissions",
                f"project '{project}' was erased on {erased_at:%Y-%m-%d %H:%M:%S} UTC, a token of "
                f"it can only read what is left: use any of {', '.join(sorted(READING))}",
            )
        token = Token.issue(
            context,
            token_id=self._ids.new_id(),
            secret_sha256=secret_sha256(secret),
            permissions=permissions,
            expires_at=expires_at,
        )
        if there is None:
            with suppress(ConflictError):  # somebody else created it in this moment: as good
                await self._log.append(Project.create(context, name=project))
        await self._log.append(token)
        return secret

    async def revoke(self, token_id: UUID) -> None:
        """Raise NotFoundError or InvalidTransitionError (revoked already)."""
        token = await self._log.load(Token, token_id)
        if token is None:
            raise NotFoundError("token", token_id)
        token.revoke(self._context(token.project_id))
        await self._log.append(token)

    def _context(self, project_id: UUID) -> Context:
        return Context(
            actor=OPERATOR,
            project_id=project_id,
            request_id=str(self._ids.new_id()),
            at=self._clock.now(),
        )
