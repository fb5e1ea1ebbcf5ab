"""Duties are begun again after a failure, and end with the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from contree.domain.errors import UnavailableError
from contree.worker import duties
from contree.worker.duties import duties_kept

WAIT_S = 10


class AlwaysLeads:
    def __init__(self) -> None:
        self.led: list[str] = []

    @asynccontextmanager
    async def lead(self, name: str) -> AsyncIterator[None]:
        self.led.append(name)
        yield


class FailsAtFirst:
    name = "index"

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.goes_on = asyncio.Event()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        if self._failures:
            raise self._failures.pop()
        self.goes_on.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def test_a_duty_is_begun_again_and_ends_with_the_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duties, "BEGIN_AGAIN_S", 0.0)
    leadership = AlwaysLeads()
    duty = FailsAtFirst(UnavailableError("away"), ValueError("a defect"))
    async with duties_kept([duty], leadership), asyncio.timeout(WAIT_S):
        await duty.goes_on.wait()
    assert duty.ended.is_set()
    assert leadership.led == ["index"] * 3
