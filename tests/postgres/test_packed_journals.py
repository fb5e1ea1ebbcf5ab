"""What clients see of a run before, while and after its journal is packed; only guests are fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from contree import bootstrap
from contree.bootstrap import DatabaseUrls
from contree.config import Settings
from contree.http.execution import journal_reader
from tests.support.deployment import Api, Deployment, api_of

pytestmark = pytest.mark.postgres


@pytest.fixture
async def deployment(postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    settings = Settings(data_dir=tmp_path)
    async with bootstrap.core(settings, DatabaseUrls(app=postgres_dsn, owner=postgres_dsn)) as core:
        yield Deployment(core, postgres_dsn)


async def rows_left(deployment: Deployment) -> int:
    connection = await asyncpg.connect(deployment.dsn)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM operation_journal")
        return count
    finally:
        await connection.close()


async def all_views(api: Api, run: UUID) -> dict[str, Any]:
    """Everything that the API shows of a journal."""
    queries = ["", "?since=-1", "?since=0", "?since=2", "?since=99", "?spid=1", "?spid=0&since=0"]
    paths = [f"/events{query}" for query in (*queries, "?follow=1", "?follow=1&since=1")]
    views = {p: await api.ask("GET", f"/v1/operations/{run}{p}") for p in (*paths, "")}
    views["subprocess"] = await api.ask("GET", f"/v1/operations/{run}/subprocesses/1")
    return views


async def as_of(deployment: Deployment, api: Api, run: UUID, position: int) -> Any:
    following, status = asyncio.create_task(deployment.core.history.follow.run()), 503
    async with asyncio.timeout(20):
        while status == 503:  # until the index is there
            status, past = await api.ask("GET", f"/v1/operations/{run}?as_of=@{position}")
            await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert status == 200, past
    return past


async def test_clients_see_no_difference_and_no_row_is_left(deployment: Deployment) -> None:
    async with api_of(deployment, "alpha") as api:
        run = await api.run(await deployment.image("alpha"), "what it says", env={"WHO": "me"})
        before = await all_views(api, run)
        assert {status for status, _ in before.values()} == {200}
        assert "what it says" in before["/events"][1]
        head = await deployment.core.recorded.head()
        assert await rows_left(deployment) > 0
        await deployment.core.packing.look()
        assert await rows_left(deployment) == 0
        assert await all_views(api, run) == before
        assert await deployment.core.recorded.head() == head, "packing is no fact"
        past = await as_of(deployment, api, run, head)
        assert past["metadata"]["result"]["stdout"]["value"] == "what it says" + "me"


async def test_a_follower_is_sent_everything_once_while_it_is_packed(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page at a time, and the journal is packed behind the first."""
    monkeypatch.setattr(journal_reader, "ENTRIES_MIN", 2)
    monkeypatch.setattr(journal_reader, "ENTRIES_MAX", 2)
    core, packed = deployment.core, asyncio.Event()
    async with api_of(deployment, "alpha") as api:
        image = await deployment.image("alpha")
        status, started = await api.ask(
            "POST", "/v1/instances", json={"image": str(image), "command": "tell", "args": ["x"]}
        )
        assert status == 201
        run = UUID(started["uuid"])
        read = core.journal.read

        async def packing_read(operation_id: UUID, **options: Any) -> Any:
            found = await read(operation_id, **options)
            row = await core.operations.get(
                (await core.operations.project_of(run)) or UUID(int=0), run
            )
            if found and row is not None and row.status.is_terminal:
                await core.packing.look()
                packed.set()
            return found

        monkeypatch.setattr(core.journal, "read", packing_read)
        following = asyncio.create_task(api.ask("GET", f"/v1/operations/{run}/events?follow=1"))
        await deployment.work()
        status, followed = await following
        monkeypatch.setattr(core.journal, "read", read)
        if not packed.is_set():
            await core.packing.look()
        assert await rows_left(deployment) == 0
        _, events = await api.ask("GET", f"/v1/operations/{run}/events")
        numbers = [line for line in followed.splitlines() if line.startswith("id: ")]
        assert len(set(numbers)) == len(numbers)
        assert numbers == [line for line in events.splitlines() if line.startswith("id: ")]
        assert followed == events
