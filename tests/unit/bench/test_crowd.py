"""What tells a leak from none, and a starved project from one that waits its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from bench._crowd import POOLED_MAX, Ended, Stock, late
from contree.app.reads import OperationRow
from contree.domain.operation import Kind, Status

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
STOCK = Stock(
    processes={"API": 1, "worker": 1},
    sockets=10,
    descriptors=30,
    scratch_files=0,
    connections=8,
    pooled=4,
    memory_mib={"API": 60.0, "worker": 40.0},
)


@pytest.mark.parametrize(
    ("grown", "leak"),
    [
        (replace(STOCK, processes={"API": 1, "worker": 1, "cat": 1}), "cat: 1 processes"),
        (replace(STOCK, sockets=11), "sockets"),
        (replace(STOCK, descriptors=31), "descriptors"),
        (replace(STOCK, scratch_files=1), "scratch_files"),
        (replace(STOCK, connections=9), "connections"),
        (replace(STOCK, pooled=POOLED_MAX + 1), "pooled connections"),
        (replace(STOCK, memory_mib={"API": 60.0, "worker": 50.1}), "memory"),
    ],
)
def test_what_is_more_than_before_is_a_leak(grown: Stock, leak: str) -> None:
    (found,) = grown.leaks_over(STOCK, memory_share=0.1)
    assert leak in found


def test_less_than_before_pools_within_their_bound_and_memory_within_its_share_are_none() -> None:
    memory = {"API": 61.0, "worker": 48.0}
    after = replace(STOCK, processes={"API": 1}, sockets=9, pooled=POOLED_MAX, memory_mib=memory)
    assert after.leaks_over(STOCK, memory_share=0.1) == []


def started(order: Sequence[str]) -> list[Ended]:
    """Runs that were all queued at EPOCH and started in this order, a second apart."""
    return [
        Ended(project=project, number=number, row=_row(EPOCH + timedelta(seconds=1 + number)))
        for number, project in enumerate(order)
    ]


def _row(at: datetime) -> OperationRow:
    return OperationRow(
        operation_id=UUID(int=1), project_id=UUID(int=2), kind=Kind.INSTANCE,
        status=Status.SUCCESS, error=None, created_at=EPOCH, started_at=at, finished_at=at,
        duration_us=1, worker="w", image_id=None, result_image_id=None, result_tag=None,
        image_size_bytes=0, request={}, outcome=None,
    )  # fmt: skip


def test_projects_that_take_turns_are_not_late() -> None:
    assert late(started("abcabcabaaaa"), at_once=0) == []


def test_a_project_behind_the_whole_queue_of_another_is_late() -> None:
    (found,) = late(started(["many"] * 20 + ["one"]), at_once=2)
    assert found.startswith("one: its start 1")
