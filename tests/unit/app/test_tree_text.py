"""Built on trees of names, drawn and compared whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from contree.app.tree_text import LEAD_COLUMNS_MAX, draw_tree

NINE = [f"c{number}" for number in range(1, 10)]
NESTED = {
    "r": ["a", "b", "c"],
    "a": ["a1", "a2", "a3"],
    "b": ["b1"],
    "b1": ["b2", "b3"],
    "c": ["c1"],
    "c1": ["c2"],
}


def drawn(
    children: Mapping[str, Sequence[str]],
    *,
    straight: bool = False,
    columns: int | None = None,
    further: Mapping[str, str] | None = None,
) -> list[str]:
    return draw_tree(
        ["r"],
        children=lambda name: children.get(name, []),
        text=lambda name: [name, (further or {})[name]] if name in (further or {}) else [name],
        straight=straight,
        columns=columns,
    )


@pytest.mark.parametrize(
    ("children", "lines"),
    [
        ([], ["r"]),
        (["c1"], ["r", "└─ c1"]),
        (["c1", "c2"], ["r", "├─ c1", "└─ c2"]),
        (["c1", "c2", "c3"], ["r", "├─ c1", "├─ c2", "└─ c3"]),
        (NINE, ["r", *(f"├─ c{number}" for number in range(1, 9)), "└─ c9"]),
    ],
)
def test_every_child_hangs_from_its_parent(children: list[str], lines: list[str]) -> None:
    assert drawn({"r": children}) == lines
    # A single child is the only one that a straight tree draws otherwise.
    assert drawn({"r": children}, straight=True) == (["r", "c1"] if len(children) == 1 else lines)


def test_children_of_siblings_do_not_look_like_siblings() -> None:
    assert drawn(NESTED) == [
        "r",
        "├─ a",
        "│  ├─ a1",
        "│  ├─ a2",
        "│  └─ a3",
        "├─ b",
        "│  └─ b1",
        "│     ├─ b2",
        "│     └─ b3",
        "└─ c",
        "   └─ c1",
        "      └─ c2",
    ]
    assert drawn(NESTED, straight=True) == [
        "r",
        "├─ a",
        "│  ├─ a1",
        "│  ├─ a2",
        "│  └─ a3",
        "├─ b",
        "│  b1",
        "│  ├─ b2",
        "│  └─ b3",
        "└─ c",
        "   c1",
        "   c2",
    ]


def test_further_lines_stand_left_of_what_hangs_below() -> None:
    assert drawn({"r": ["a", "b"], "a": ["c"]}, further={"r": "1", "a": "2", "b": "3"}) == [
        "r",
        "│  1",
        "├─ a",
        "│  │  2",
        "│  └─ c",
        "└─ b",
        "      3",
    ]


def test_several_roots_stand_below_each_other() -> None:
    trees = {"one": ["leaf"], "two": []}
    lines = draw_tree(["one", "two"], children=lambda n: trees.get(n, []), text=lambda n: [n])
    assert lines == ["one", "└─ leaf", "two"]


def test_a_straight_chain_of_ten_thousand_stays_in_its_column() -> None:
    chain = {"r": ["1"]} | {str(n): [str(n + 1)] for n in range(1, 10_000)}
    assert drawn(chain, straight=True) == ["r", *map(str, range(1, 10_001))]


def test_lines_of_a_tree_ten_thousand_deep_stay_bounded() -> None:
    chain = {"r": ["1"]} | {str(n): [str(n + 1)] for n in range(1, 10_000)}
    lines = drawn(chain)
    assert len(lines) == 10_001
    assert lines[10_000] == "…" + " " * (LEAD_COLUMNS_MAX - 4) + "└─ 10000"
    narrow = drawn(chain, columns=30)
    assert narrow[10_000] == "…" + " " * 11 + "└─ 10000"


def test_lines_are_cut_where_the_terminal_ends() -> None:
    wide = {"r": ["ten-cells.", "more-than-10", "宽" * 5, "宽" * 6, "e\u0301" * 9]}
    assert drawn(wide, columns=13) == [
        "r",
        "├─ ten-cells.",
        "├─ more-than…",
        "├─ 宽宽宽宽宽",
        "├─ 宽宽宽宽…",
        "└─ " + "e\u0301" * 9,
    ]
