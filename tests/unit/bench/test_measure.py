"""Built on hand-made samples; nothing is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import _measure, report
from bench._measure import Report, Row, Spread, Target, alternate, as_text
from bench.report import BEGIN, END, full_table, short_table, with_table

MACHINE = {
    "cores": 2,
    "cpu": "a | b",
    "memory_mib": 24105,
    "kernel": "6.1",
    "python": "3.11",
    "qemu": "7.2",
    "libvirt": "9.0",
    "postgresql": "18.4",
}


def a_row(
    ours: list[float], reference: list[float] | None, *targets: Target, what: str = "a thing"
) -> Row:
    return Row(
        what=what,
        unit="ms",
        ours=Spread.of(ours),
        reference=None if reference is None else Spread.of(reference),
        reference_name="" if reference is None else "the floor",
        targets=targets,
    )


def a_document(*rows: Row, others: float = 0.1) -> dict[str, object]:
    return {
        "name": "thing",
        "question": "How?",
        "at": "2026-11-23T09:00:00+00:00",
        "took_s": 1.0,
        "load_start": 0.3,
        "others_share": others,
        "load_end": 0.2,
        "accelerator": "tcg",
        "machine": MACHINE,
        "rows": [row.as_json() for row in rows],
        "notes": ["one thing"],
    }


def test_the_table_names_what_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "names", lambda: ["deep", "thing", "wide"])
    assert short_table([a_document(a_row([1], None))]).endswith("Not measured: deep, wide.")


def test_the_ratio_is_of_medians_whatever_the_outliers() -> None:
    assert a_row([1, 2, 900], [4, 4, 0.1]).ratio == 0.5


def test_there_is_no_ratio_to_nothing() -> None:
    assert a_row([1], None).ratio is None
    assert a_row([1], [0]).ratio is None


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target(of="ratio", at_most=2), True),
        (Target(of="ratio", at_most=1.9), False),
        (Target(of="ratio", at_least=2), True),
        (Target(of="ratio", at_least=2.1), False),
        (Target(of="ours", at_most=10), True),
        (Target(of="ours", at_most=9), False),
    ],
)
def test_a_target_is_met_on_its_bound_and_missed_beyond(target: Target, met: bool) -> None:
    assert a_row([10], [5], target).meets(target) is met


def test_a_target_of_the_ratio_is_missed_without_a_reference() -> None:
    target = Target(of="ratio", at_most=2)
    assert not a_row([10], None, target).meets(target)


@pytest.mark.parametrize("bounds", [{}, {"at_most": 1, "at_least": 1}])
def test_a_target_has_exactly_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="one of at_most and at_least"):
        Target(of="ratio", **bounds)


def test_sides_take_turns() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return len(calls)

    samples = alternate(2, ours=lambda: side("a"), theirs=lambda: side("b"))
    assert calls == ["a", "b", "a", "b"]
    assert samples == {"ours": [1, 3], "theirs": [2, 4]}


def test_a_missed_target_is_said_beside_a_met_one() -> None:
    row = a_row([10], [5], Target(of="ratio", at_most=1.5), Target(of="ours", at_most=20))
    text = as_text(a_document(row))
    assert "<= 1.5x MISSED, <= 20 ms met" in text
    assert "reference: the floor" in text


def test_a_report_is_written_with_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_measure, "OUT_DIR", tmp_path / "out")
    monkeypatch.setattr(_measure, "machine", lambda: MACHINE)
    shares = iter((0.5, 0.1))
    monkeypatch.setattr(_measure, "busy_share", lambda **_: next(shares))
    report = Report("thing", "How?")
    with report.running():
        report.add("a thing", "ms", [1, 2, 3], [2], reference_name="the floor")
        report.note("one thing")
    written = json.loads((tmp_path / "out" / "thing.json").read_text())
    assert written["rows"][0]["ours"] == {"minimum": 1, "median": 2, "maximum": 3, "count": 3}
    assert written["rows"][0]["ratio"] == 1
    assert written["samples"] == {"a thing": [1, 2, 3], "a thing: the floor": [2]}
    assert written["notes"] == [
        "one thing",
        "others used up to 50% of the CPUs just before or after",
    ]
    assert written["others_share"] == 0.5
    assert "a thing" in capsys.readouterr().out


def test_a_failed_bench_leaves_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "OUT_DIR", tmp_path / "out")
    monkeypatch.setattr(_measure, "busy_share", lambda **_: 0.0)
    with pytest.raises(RuntimeError), Report("thing", "How?").running():
        raise RuntimeError
    assert not (tmp_path / "out").exists()


def test_the_short_table_leaves_out_what_only_explains() -> None:
    document = a_document(a_row([1], [2], what="whole"), a_row([1], None, what="- part"))
    assert "part" not in short_table([document])
    assert "&nbsp;&nbsp;part" in full_table([document])
    assert "| whole | 1.00 ms | 1.00 .. 1.00 | 2.00 ms |" in short_table([document])


def test_a_busy_machine_is_named() -> None:
    quiet, busy = a_document(a_row([1], None)), a_document(a_row([1], None), others=0.3)
    assert "was busy" not in full_table([quiet])
    assert "was busy with other work around: thing" in full_table([quiet, busy])


def test_only_what_lies_between_the_marks_is_replaced() -> None:
    text = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    once = with_table(text, "new")
    assert once == f"above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"
    assert with_table(once, "new") == once
    with pytest.raises(ValueError, match="needs the lines"):
        with_table("no marks", "new")
