"""What the processes of one host agree on by files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from contree.adapters.system import host_mark
from contree.adapters.system.host_mark import FileMark, HostLeadership


def test_a_mark_is_what_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    assert FileMark(path).read() is None
    for position in (7, 6, 1_000_000):
        FileMark(path).write(position)
        assert FileMark(path).read() == position
    path.write_text("")
    assert FileMark(path).read() is None, "as if this host had none"
    assert [p.name for p in tmp_path.iterdir()] == ["mark"]


async def test_one_process_of_a_host_leads_and_another_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_mark, "ASK_AGAIN_S", 0.001)
    order: list[str] = []
    first, second = HostLeadership(tmp_path), HostLeadership(tmp_path)

    async def follow() -> None:
        async with second.lead("a duty"):
            order.append("second")

    async with first.lead("a duty"):
        coming = asyncio.create_task(follow())
        async with second.lead("another duty"):
            order.append("another")
        for _ in range(20):
            await asyncio.sleep(0.001)
        order.append("first")
    await coming
    assert order == ["another", "first", "second"]
