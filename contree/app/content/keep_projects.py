"""What an operator decides about a project's content: hold it, let it expire, erase it."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from contree.app.access import OPERATOR
from contree.app.clock import Clock, IdSource
from contree.app.event_log import EventLog
from contree.app.reads import ProjectReads, ProjectRow, TokenReads
from contree.app.retries import retry_conflicts
from contree.domain.aggregate import Aggregate
from contree.domain.context import Context
from contree.domain.errors import NotFoundError
from contree.domain.project import Project, project_id_of
from contree.domain.token import Token


class KeepProjects:
    """The operator's command line. Every method raises NotFoundError for an unknown project."""

    def __init__(
        self,
        *,
        log: EventLog,
        projects: ProjectReads,
        tokens: TokenReads,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._log = log
        self._projects = projects
        self._tokens = tokens
        self._clock = clock
        self._ids = ids

    async def row(self, name: str) -> ProjectRow:
        row = await self._projects.get(project_id_of(name))
        if row is None:
            raise NotFoundError("project", name)
        return row

    async def hold(self, name: str, *, reason: str) -> None:
        """Place a legal hold. Raises InvalidTransitionError, InvalidFieldError,
        ContentErasedError.
        """
        await self._decide(name, lambda project, c: project.hold(c, reason=reason))

    async def release(self, name: str) -> None:
        """End the legal hold. Raises InvalidTransitionError."""
        await self._decide(name, lambda project, c: project.release(c))

    async def set_retention(self, name: str, *, days: int | None) -> None:
        """Keep content for `days` after an operation's end, None for ever.

        Raises InvalidFieldError, ContentErasedError.
        """
        await self._decide(name, lambda project, c: project.set_retention(c, days=days))

    async def erase(self, name: str, *, reason: str) -> None:
        """Destroy the project's data key and revoke its tokens, in one transaction.

        From then on nothing of its content can be read. What lies on disk is removed by
        RemoveContent. Raises InvalidTransitionError under a legal hold, ContentErasedError when it
        was erased already, InvalidFieldError.
        """

        async def attempt() -> None:
            project, context = await self._load(name)
            project.erase(context, reason=reason)
            revoked: list[Aggregate] = []
            for token_id in await self._tokens.active_of(project.id):
                token = await self._log.load(Token, token_id)
                if token is not None and not token.revoked:
                    token.revoke(context)
                    revoked.append(token)
            await self._log.append(project, *revoked)

        await retry_conflicts(attempt)

    async def _decide(self, name: str, decide: Callable[[Project, Context], None]) -> None:
        async def attempt() -> None:
            project, context = await self._load(name)
            decide(project, context)
            await self._log.append(project)

        await retry_conflicts(attempt)

    async def _load(self, name: str) -> tuple[Project, Context]:
        project_id = project_id_of(name)
        project = await self._log.load(Project, project_id)
        if project is None:
            raise NotFoundError("project", name)
        return project, self._context(project_id)

    def _context(self, project_id: UUID) -> Context:
        return Context(
            actor=OPERATOR,
            project_id=project_id,
            request_id=str(self._ids.new_id()),
            at=self._clock.now(),
        )
