"""The promise of OVERWRITES: the first event and the last of each kind fold to the whole."""

from __future__ import annotations

from uuid import UUID

from contree.domain.aggregate import Event, fold, overwriting
from contree.domain.file import File
from contree.domain.project import Project
from contree.domain.tag import Tag
from contree.domain.token import Token
from tests.support.histories import History


def test_these_aggregates_make_the_promise() -> None:
    assert overwriting() == [File, Project, Tag, Token]


def test_what_is_left_out_between_changes_nothing() -> None:
    shortened: set[type[object]] = set()
    for seed in range(30):
        history = History(seed)
        whole: dict[UUID, list[Event]] = {}
        for touched in history.steps(200):
            for aggregate in touched:
                whole.setdefault(aggregate.id, []).extend(aggregate.collect_events())
        for id_, events in whole.items():
            aggregate = history.aggregates[id_]
            if not aggregate.OVERWRITES:
                continue
            last = {type(event): event for event in events[1:]}
            kept = [events[0], *sorted(last.values(), key=lambda e: e.originator_version)]
            assert fold(kept) == {id_: aggregate}
            if len(kept) < len(events):
                shortened.add(type(aggregate))
    assert shortened == {File, Project, Tag}
