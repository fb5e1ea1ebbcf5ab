"""Built on hand-made operations, drawn and compared line by line."""

from __future__ import annotations

import pytest

from infra.demo.tree import Step, draw, size_text


def step(what: str, source: str | None, result: str | None, tag: str | None = None) -> Step:
    return Step(
        operation=f"op-{what}",
        what=what,
        status="SUCCESS",
        source=source,
        result=result,
        duration_s=1.5,
        image_bytes=2048,
        outcome="exit 0" if source else "",
        tag=tag,
    )


def test_branches_hang_below_the_image_they_ran_on() -> None:
    steps = [
        step("import", None, "base0000-1", "base"),
        step("prepare", "base0000-1", "check000-1", "checkpoint"),
        step("left", "check000-1", "left0000-1"),
        step("right", "check000-1", "right000-1", "winner"),
        step("look", "check000-1", None),
        step("idle", "right000-1", "right000-1"),
    ]
    assert draw(steps) == [
        "import   SUCCESS   1.50 s, 2.0 KiB",
        "│  image base0000  [base]",
        "└─ prepare   exit 0   1.50 s, +2.0 KiB",
        "   │  image check000  [checkpoint]",
        "   ├─ left   exit 0   1.50 s, +2.0 KiB",
        "   │     image left0000",
        "   ├─ right   exit 0   1.50 s, +2.0 KiB",
        "   │  │  image right000  [winner]",
        "   │  └─ idle   exit 0   1.50 s",
        "   │        (changed nothing)",
        "   └─ look   exit 0   1.50 s",
        "         (kept nothing)",
    ]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (216_102_400, "206 MiB"),
        (5 * 1024**4, "5120 GiB"),
    ],
)
def test_sizes_are_for_people(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
