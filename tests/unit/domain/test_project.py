"""What a project decides about its content."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contree.domain.context import Context
from contree.domain.errors import ContentErasedError, InvalidFieldError, InvalidTransitionError
from contree.domain.project import Project, Removal, project_id_of
from tests.fakes.clock import EPOCH

ID = project_id_of("alpha")


def at(days: float = 0) -> Context:
    when = EPOCH + timedelta(days=days)
    return Context(actor="operator", project_id=ID, request_id="r", at=when)


@pytest.fixture
def project() -> Project:
    return Project.create(at(), name="alpha")


def test_a_hold_is_placed_once_and_released_once(project: Project) -> None:
    project.hold(at(), reason=" case 7 ")
    assert project.hold_reason == "case 7"
    with pytest.raises(InvalidTransitionError, match="case 7"):
        project.hold(at(), reason="case 8")
    project.release(at())
    with pytest.raises(InvalidTransitionError):
        project.release(at())


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1001, "a\0b"])
def test_a_reason_is_needed(project: Project, reason: str) -> None:
    with pytest.raises(InvalidFieldError, match="reason"):
        project.hold(at(), reason=reason)
    with pytest.raises(InvalidFieldError, match="reason"):
        project.erase(at(), reason=reason)


def test_a_hold_blocks_erasure_and_retention(project: Project) -> None:
    project.set_retention(at(), days=1)
    project.hold(at(), reason="case 7")
    with pytest.raises(InvalidTransitionError, match="case 7"):
        project.erase(at(), reason="asked to")
    assert project.retention_cut(at(9).at) is None
    with pytest.raises(InvalidTransitionError):
        project.apply_retention(at(9), cut=at(1).at, operation_count=1)
    assert project.erased_at is None


@pytest.mark.parametrize("days", [0, -1, 36_526])
def test_retention_has_bounds(project: Project, days: int) -> None:
    with pytest.raises(InvalidFieldError, match="days"):
        project.set_retention(at(), days=days)


def test_the_same_retention_again_is_no_event(project: Project) -> None:
    project.set_retention(at(), days=7)
    before = len(project.pending_events)
    project.set_retention(at(), days=7)
    assert len(project.pending_events) == before
    project.set_retention(at(), days=None)
    assert project.retention_days is None


def test_the_cut_moves_by_whole_hours_and_never_back(project: Project) -> None:
    assert project.retention_cut(at(9).at) is None, "for ever"
    project.set_retention(at(), days=2)
    cut = project.retention_cut(at(9).at)
    assert cut is not None
    assert cut == at(7).at.replace(minute=0, second=0, microsecond=0)
    with pytest.raises(InvalidTransitionError):
        project.apply_retention(at(9), cut=cut + timedelta(seconds=1), operation_count=1)
    project.apply_retention(at(9), cut=cut, operation_count=1)
    assert project.retention_cut(at(9).at) is None, "done"
    project.set_retention(at(9), days=5)
    assert project.retention_cut(at(10).at) is None, "what is gone is gone"


def test_after_the_erasure_nothing_more_is_decided(project: Project) -> None:
    project.set_retention(at(), days=1)
    project.erase(at(1), reason="asked to")
    assert project.erased_at == at(1).at
    for decide in (
        lambda: project.erase(at(2), reason="again"),
        lambda: project.hold(at(2), reason="late"),
        lambda: project.set_retention(at(2), days=3),
    ):
        with pytest.raises(ContentErasedError, match="erased on 2026"):
            decide()
    assert project.retention_cut(at(9).at) is None
    project.content_removed(
        at(2), cause=Removal.ERASURE, complete=True, journal_count=1, blob_count=1, blob_bytes=1
    )
