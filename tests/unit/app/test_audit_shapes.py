"""Shapes of what the history is answered with: CloudEvents, types, drawings."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from contree.app.audit.audit_reads import AuditEntry, Lineage, MakingOperation, RelatedImage
from contree.app.audit.audit_types import wanted_types
from contree.app.audit.cloud_event import cloud_event
from contree.app.audit.lineage_tree import COMMAND_CHARS_MAX, draw_lineage
from contree.app.recorded_log import RecordedEvent
from contree.domain.errors import InvalidFieldError
from contree.domain.operation import Kind
from tests.fakes.clock import EPOCH

ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")
"""CloudEvents 1.0, 3.1: names of attributes."""

REQUIRED = {"specversion", "id", "source", "type"}
TEXT_MAX = 2**31 - 1


def an_entry(**facts: object) -> AuditEntry:
    context = {"timestamp": EPOCH, "actor": "a", "project_id": UUID(int=5), "request_id": "r"}
    event = RecordedEvent(
        position=2**40,
        aggregate_id=UUID(int=7),
        version=3,
        topic="contree.tag.moved",
        state=b"",
        recorded_at=EPOCH + timedelta(seconds=1),
        hash=b"\xab" * 32,
    )
    return AuditEntry(event=event, facts=context | facts)


def test_a_cloud_event_has_the_names_and_types_of_the_specification() -> None:
    event = cloud_event(an_entry(name="base", image_id=UUID(int=9), originator_topic="contree.tag"))
    assert event.keys() >= REQUIRED
    assert all(ATTRIBUTE.fullmatch(name) for name in event)
    for name, value in event.items():
        if isinstance(value, int):
            assert -TEXT_MAX - 1 <= value <= TEXT_MAX, name  # its Integer has 32 bits
    assert (event["id"], event["subject"]) == (str(2**40), f"tag/{UUID(int=7)}")
    assert (event["time"], event["recordedtime"]) == (EPOCH, EPOCH + timedelta(seconds=1))
    assert event["hash"] == "ab" * 32
    assert event["data"] == {"name": "base", "image_id": UUID(int=9)}


def test_types_are_meant_exactly_or_by_their_beginning() -> None:
    assert wanted_types([]) is None
    assert wanted_types(["contree.tag.moved"]) == ("contree.tag.moved",)
    assert wanted_types(["contree.tag.", "contree.tag.moved"]) == (
        "contree.tag.assigned",
        "contree.tag.moved",
        "contree.tag.removed",
    )
    for text in ("", "contree.tag", "contree.tag.mov", "x."):
        with pytest.raises(InvalidFieldError, match=r"there are contree\.audit\.read"):
            wanted_types([text])


def a_run(command: str, *, exit_code: int | None = 0) -> MakingOperation:
    return MakingOperation(
        operation_id=UUID(int=1),
        kind=Kind.INSTANCE,
        command=command,
        args=(),
        registry_url=None,
        exit_code=exit_code,
        created_at=EPOCH,
        started_at=EPOCH,
        finished_at=EPOCH,
        duration_us=1_250_000,
    )


def related(
    number: int, parent: int | None, depth: int, operation: MakingOperation | None, *tags: str
) -> RelatedImage:
    return RelatedImage(
        image_id=UUID(int=number),
        parent_image_id=None if parent is None else UUID(int=parent),
        depth=depth,
        created_at=EPOCH,
        tags=tags,
        operation=operation,
    )


def shortened(lines: list[str]) -> list[str]:
    """The lines with ids as their last digit, and without times."""
    return [
        re.sub(r"  2026-01-02 03:04:05", "", re.sub(r"0{8}-[0-9-]{26}(\d)", r"\1", line))
        for line in lines
    ]


def test_a_lineage_is_drawn_with_its_branches() -> None:
    lineage = Lineage(
        image_id=UUID(int=2),
        project_id=UUID(int=5),
        images=[
            related(1, None, -1, None, "base", "busybox"),
            related(2, 1, 0, a_run("make")),
            related(3, 2, 1, a_run("a\x1b[31m\nb", exit_code=3)),
            related(4, 2, 1, a_run("test"), "winner"),
            related(5, 3, 2, a_run("deep", exit_code=None)),
            related(6, 4, 2, a_run("x" * 100)),
            related(7, 4, 2, replace(a_run("tar"), args=None)),
        ],
        truncated=True,
    )
    assert shortened(draw_lineage(lineage)) == [
        "o 1  [base, busybox]",
        "* 2  <- here  run make  exit 0  1.25 s",
        "├─ o 3  run a?[31m?b  exit 3  1.25 s",
        "│  o 5  run deep  1.25 s",
        "└─ o 4  [winner]  run test  exit 0  1.25 s",
        f"   ├─ o 6  run {'x' * (COMMAND_CHARS_MAX - 3)}...  exit 0  1.25 s",
        "   └─ o 7  run tar ...  exit 0  1.25 s",
        "(there are more: raise --depth or --limit)",
    ]


def test_ids_are_as_short_as_tells_them_apart_and_lines_as_the_terminal() -> None:
    ids = [UUID(int=0xAAAA_0000 << 96), UUID(int=0xBBBB_0000 << 96), UUID(int=0xBBBB_0001 << 96)]
    images = [replace(related(n, None, n, None), image_id=id_) for n, id_ in enumerate(ids)]
    images = [replace(i, parent_image_id=ids[0] if i.depth else None) for i in images]
    apart = Lineage(image_id=ids[0], project_id=UUID(int=5), images=images, truncated=False)
    assert draw_lineage(apart) == [
        "* aaaa0000  <- here  2026-01-02 03:04:05",
        "├─ o bbbb0000  2026-01-02 03:04:05",
        "└─ o bbbb0001  2026-01-02 03:04:05",
    ]
    assert draw_lineage(apart, columns=20, whole_ids=True) == [
        "* aaaa0000-0000-000…",
        "├─ o bbbb0000-0000-…",
        "└─ o bbbb0001-0000-…",
    ]
    alike = replace(
        apart, images=[replace(images[0], image_id=UUID(int=ids[1].int + 1)), images[1]]
    )
    assert draw_lineage(alike)[0] == f"o {UUID(int=ids[1].int + 1)}  2026-01-02 03:04:05"


def test_a_chain_may_be_longer_than_pythons_stack() -> None:
    chain = [related(n, n - 1 or None, n - 1, None) for n in range(1, 10_001)]
    lineage = Lineage(image_id=UUID(int=1), project_id=UUID(int=5), images=chain, truncated=False)
    lines = draw_lineage(lineage)
    assert len(lines) == len(chain)
    assert all(line[:2] in {"* ", "o "} for line in lines)
