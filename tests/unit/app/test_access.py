"""Access and tokens on the in-memory log: an operator makes tokens, callers present them."""

from datetime import timedelta
from uuid import UUID

import pytest

from contree.app.access import Access
from contree.app.issue_tokens import IssueTokens
from contree.domain.errors import (
    InvalidFieldError,
    InvalidTransitionError,
    NotFoundError,
    PermissionMissingError,
    UnauthenticatedError,
)
from contree.domain.project import project_id_of
from contree.domain.token import Permission, TokenIssued, parse_permissions
from tests.fakes.clock import FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.reads import FakeTokenReads


class Desk:
    """An operator's desk: tokens are made here and presented at the door."""

    def __init__(self) -> None:
        self.log = FakeEventLog()
        self.clock = FakeClock()
        self.tokens = FakeTokenReads(self.log)
        self.issue = IssueTokens(log=self.log, clock=self.clock, ids=FakeIds())
        self.access = Access(tokens=self.tokens, clock=self.clock)

    async def make(self, *permissions: Permission, project: str = "demo", days: int = 0) -> str:
        expires_at = self.clock.now() + timedelta(days=days) if days else None
        return await self.issue.issue(
            project=project, permissions=permissions, expires_at=expires_at
        )


async def test_a_token_speaks_for_its_project_and_its_permissions_only() -> None:
    desk = Desk()
    secret = await desk.make(Permission.LIST)
    caller = await desk.access.authenticate(secret, project=None, request_id="r1")
    assert caller.project_id == project_id_of("demo")
    caller.require(Permission.LIST)
    with pytest.raises(PermissionMissingError, match="spawn"):
        caller.require(Permission.SPAWN)
    context = caller.context(desk.clock.now())
    assert (context.actor, context.request_id) == (str(caller.token.token_id), "r1")


async def test_the_secret_never_enters_the_log() -> None:
    desk = Desk()
    secret = await desk.make(Permission.LIST)
    assert any(isinstance(event, TokenIssued) for event in desk.log.events)
    assert secret not in repr([vars(event) for event in desk.log.events])


@pytest.mark.parametrize("project", ["demo", str(project_id_of("demo")), "", None])
async def test_a_request_may_name_the_tokens_own_project(project: str | None) -> None:
    desk = Desk()
    secret = await desk.make(Permission.LIST)
    assert await desk.access.authenticate(secret, project=project, request_id="r")


async def test_another_project_is_refused_alike_whether_it_exists_or_not() -> None:
    desk = Desk()
    secret = await desk.make(Permission.LIST)
    await desk.make(Permission.LIST, project="other")
    texts = set()
    for project in ("other", "nowhere"):
        with pytest.raises(UnauthenticatedError) as refused:
            await desk.access.authenticate(secret, project=project, request_id="r")
        texts.add(str(refused.value))
    assert len(texts) == 1


async def test_unknown_revoked_and_expired_tokens_are_refused() -> None:
    desk = Desk()
    with pytest.raises(UnauthenticatedError):
        await desk.access.authenticate("nonsense", project=None, request_id="r")
    secret = await desk.make(Permission.LIST, days=1)
    desk.clock.advance(86_400)
    with pytest.raises(UnauthenticatedError, match="expired"):
        await desk.access.authenticate(secret, project=None, request_id="r")
    secret = await desk.make(Permission.LIST)
    row = (await desk.access.authenticate(secret, project=None, request_id="r")).token
    await desk.issue.revoke(row.token_id)
    with pytest.raises(UnauthenticatedError):
        await desk.access.authenticate(secret, project=None, request_id="r")
    with pytest.raises(InvalidTransitionError):
        await desk.issue.revoke(row.token_id)


async def test_revoking_an_unknown_token_names_it() -> None:
    desk = Desk()
    with pytest.raises(NotFoundError, match=str(UUID(int=7))):
        await desk.issue.revoke(UUID(int=7))


async def test_two_tokens_of_one_project_share_it() -> None:
    desk = Desk()
    first, second = await desk.make(Permission.LIST), await desk.make(Permission.SPAWN)
    callers = [
        await desk.access.authenticate(s, project=None, request_id="r") for s in (first, second)
    ]
    assert len({c.project_id for c in callers}) == 1
    assert len({c.actor for c in callers}) == 2


async def test_bad_project_names_and_permissions_are_named() -> None:
    desk = Desk()
    with pytest.raises(InvalidFieldError, match="project"):
        await desk.make(Permission.LIST, project="no spaces please")
    with pytest.raises(InvalidFieldError, match="fly"):
        parse_permissions(["list", "fly"])
