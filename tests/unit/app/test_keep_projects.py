"""What an operator decides about content: recorded whole or not at all, in the operator's name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from contree.app.access import OPERATOR
from contree.app.content.keep_projects import KeepProjects
from contree.app.issue_tokens import IssueTokens
from contree.app.reads import ProjectRow
from contree.domain.aggregate import Aggregate
from contree.domain.errors import (
    ContentErasedError,
    InvalidFieldError,
    InvalidTransitionError,
    NotFoundError,
    StorageFullError,
)
from contree.domain.project import (
    ProjectErased,
    ProjectHeld,
    ProjectReleased,
    RetentionSet,
    project_id_of,
)
from contree.domain.token import Permission, TokenRevoked
from tests.fakes.clock import FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.reads import FakeProjectReads, FakeTokenReads

ALPHA, BETA = project_id_of("alpha"), project_id_of("beta")


class InterruptedLog(FakeEventLog):
    """`before` is done once, just before the next append."""

    before: Callable[[], Awaitable[object]] | None = None

    async def append(self, *aggregates: Aggregate, **options: object) -> None:
        before, self.before = self.before, None
        if before is not None:
            await before()
        await super().append(*aggregates, **options)


class Office:
    """Two projects: alpha with three tokens, one of them revoked; beta with one."""

    def __init__(self) -> None:
        self.log = InterruptedLog()
        clock, ids = FakeClock(), FakeIds()
        self.projects, self.reads = FakeProjectReads(self.log), FakeTokenReads(self.log)
        self.tokens = IssueTokens(log=self.log, clock=clock, ids=ids)
        self.keep = KeepProjects(
            log=self.log, projects=self.projects, tokens=self.reads, clock=clock, ids=ids
        )

    async def open(self) -> None:
        for project in ("alpha", "alpha", "alpha", "beta"):
            await self.tokens.issue(project=project, permissions=[Permission.LIST], expires_at=None)
        await self.tokens.revoke((await self.reads.active_of(ALPHA))[0])

    async def row(self) -> ProjectRow:
        return await self.keep.row("alpha")


@pytest.fixture
async def office() -> Office:
    made = Office()
    await made.open()
    return made


async def test_every_decision_is_recorded_and_shown(office: Office) -> None:
    before = len(office.log.events)
    await office.keep.set_retention("alpha", days=30)
    await office.keep.set_retention("alpha", days=30)  # says nothing new
    await office.keep.hold("alpha", reason="case 7")
    row = await office.row()
    assert (row.retention_days, row.hold_reason) == (30, "case 7")
    await office.keep.release("alpha")
    await office.keep.set_retention("alpha", days=None)
    row = await office.row()
    assert (row.retention_days, row.hold_reason) == (None, None)
    made = office.log.events[before:]
    kinds = [RetentionSet, ProjectHeld, ProjectReleased, RetentionSet]
    assert [type(event) for event in made] == kinds
    assert {(event.actor, event.project_id) for event in made} == {(OPERATOR, ALPHA)}
    assert len({event.request_id for event in made}) == len(made)


async def test_an_erasure_revokes_what_tokens_are_left_in_the_same_append(office: Office) -> None:
    active, before = await office.reads.active_of(ALPHA), len(office.log.events)
    await office.keep.erase("alpha", reason="Art. 17")
    erased, *revoked = office.log.events[before:]
    assert isinstance(erased, ProjectErased)
    assert erased.reason == "Art. 17"
    assert {event.originator_id for event in revoked} == set(active)
    assert len(active) == 2
    assert {type(event) for event in revoked} == {TokenRevoked}
    assert await office.reads.active_of(ALPHA) == []
    assert len(await office.reads.active_of(BETA)) == 1
    for again in (
        office.keep.erase("alpha", reason="again"),
        office.keep.hold("alpha", reason="too late"),
        office.keep.set_retention("alpha", days=1),
    ):
        with pytest.raises(ContentErasedError):
            await again


async def test_a_token_of_an_erased_project_is_made_only_to_read(office: Office) -> None:
    await office.keep.erase("alpha", reason="Art. 17")
    before = len(office.log.events)
    with pytest.raises(InvalidFieldError) as refused:
        await office.tokens.issue(
            project="alpha", permissions=[Permission.LIST, Permission.SPAWN], expires_at=None
        )
    assert str(refused.value) == (
        "permissions: project 'alpha' was erased on 2026-01-02 03:04:05 UTC, "
        "a token of it can only read what is left: use any of audit, list"
    )
    assert len(office.log.events) == before
    await office.tokens.issue(
        project="alpha", permissions=[Permission.AUDIT, Permission.LIST], expires_at=None
    )
    assert len(await office.reads.active_of(ALPHA)) == 1


async def test_an_erasure_that_is_not_recorded_revokes_nothing(office: Office) -> None:
    active = await office.reads.active_of(ALPHA)
    office.log.full = True
    with pytest.raises(StorageFullError):
        await office.keep.erase("alpha", reason="Art. 17")
    assert (await office.row()).erased_at is None
    assert await office.reads.active_of(ALPHA) == active


async def test_who_else_decides_in_that_moment_is_seen(office: Office) -> None:
    """A token revoked meanwhile is not revoked twice; a hold placed meanwhile stands."""
    first, second = await office.reads.active_of(ALPHA)
    office.log.before = lambda: office.tokens.revoke(first)
    await office.keep.set_retention("beta", days=1)
    office.log.before = lambda: office.tokens.revoke(second)
    await office.keep.erase("alpha", reason="Art. 17")
    revoked = [e.originator_id for e in office.log.events if isinstance(e, TokenRevoked)]
    assert (revoked.count(first), revoked.count(second)) == (1, 1)
    office.log.before = lambda: office.keep.hold("beta", reason="case 8")
    with pytest.raises(InvalidTransitionError, match="case 8"):
        await office.keep.erase("beta", reason="Art. 17")
    assert len(await office.reads.active_of(BETA)) == 1


@pytest.mark.parametrize(
    "decide",
    [
        lambda keep: keep.row("nobody"),
        lambda keep: keep.hold("nobody", reason="x"),
        lambda keep: keep.release("nobody"),
        lambda keep: keep.set_retention("nobody", days=1),
        lambda keep: keep.erase("nobody", reason="x"),
    ],
)
async def test_an_unknown_project_is_named(
    office: Office, decide: Callable[[KeepProjects], Awaitable[object]]
) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        await decide(office.keep)
