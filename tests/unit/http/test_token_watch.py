"""Streams of a token that is revoked or expires: they end, others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from aiohttp import ClientResponse

from contree.app.access import Access, secret_sha256
from contree.domain.errors import UnavailableError
from contree.domain.token import Token
from contree.http import token_watch
from contree.http.execution import feed
from contree.http.token_watch import WITHDRAWN, TokenWatch
from tests.fakes.event_log import FakeEventLog
from tests.fakes.reads import FakeTokenReads
from tests.unit.http.world import Api, World, bearer

WAIT_S = 30


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_watch, "LOOK_S", 0.02)
    monkeypatch.setattr(feed, "TICK_S", 0.01)


async def revoke(world: World, secret: str) -> None:
    row = await FakeTokenReads(world.log).by_secret_sha256(secret_sha256(secret))
    assert row is not None
    token = await world.log.load(Token, row.token_id)
    assert token is not None
    token.revoke(world.context())
    await world.log.append(token)


async def followed(api: Api, world: World, secret: str) -> list[ClientResponse]:
    """Return every kind of stream there is, opened with `secret`."""
    headers = bearer(secret)
    body = {"command": "c", "image": str(await world.image())}
    run = await (await api.post("/v1/instances", json=body, headers=headers)).json()
    await world.begin(UUID(run["uuid"]))
    paths = (
        f"/v1/operations/{run['uuid']}/events?follow=1",
        "/v1/audit/events?follow=1",
        "/v1/audit/events?follow=1&format=ndjson",
    )
    return [await api.get(path, headers=headers) for path in paths]


async def test_every_open_stream_of_a_revoked_token_ends_and_says_why(
    api: Api, world: World
) -> None:
    secret = await world.token()
    streams = await followed(api, world, secret)
    others = await followed(api, world, await world.token())
    await revoke(world, secret)
    async with asyncio.timeout(WAIT_S):
        for stream in streams:
            assert WITHDRAWN in await stream.content.read()
    for stream in others:
        assert not stream.content.at_eof()
        stream.close()


async def test_a_token_that_expires_ends_its_streams(api: Api, world: World) -> None:
    streams = await followed(api, world, await world.token(lives=timedelta(hours=1)))
    world.clock.advance(3601)
    async with asyncio.timeout(WAIT_S):
        for stream in streams:
            assert WITHDRAWN in await stream.content.read()


class TokensAwayOnce(FakeTokenReads):
    """The database does not answer the first look."""

    was_away = False

    def __init__(self, log: FakeEventLog) -> None:
        super().__init__(log)
        self.looked = asyncio.Event()

    async def active_of(self, project_id: UUID) -> Sequence[UUID]:
        if not self.was_away:
            self.was_away = True
            raise UnavailableError("the database is not there")
        self.looked.set()
        return await super().active_of(project_id)


async def test_a_look_that_failed_says_nothing_and_is_made_again(world: World) -> None:
    secret, tokens = await world.token(), TokensAwayOnce(world.log)
    access = Access(tokens=tokens, clock=world.clock)
    caller = await access.authenticate(secret, project=None, request_id="r")
    watch = TokenWatch(access)
    async with asyncio.timeout(WAIT_S), watch.watched(caller) as withdrawn:
        await tokens.looked.wait()
        assert not withdrawn.is_set()
        await revoke(world, secret)
        await withdrawn.wait()


async def test_many_streams_of_a_token_are_one_look_and_none_when_they_are_gone(
    world: World,
) -> None:
    access = Access(tokens=FakeTokenReads(world.log), clock=world.clock)
    caller = await access.authenticate(await world.token(), project=None, request_id="r")
    watch = TokenWatch(access)

    async with watch.watched(caller), watch.watched(caller):
        name = f"watch of token {caller.actor}"
        (looking,) = (task for task in asyncio.all_tasks() if task.get_name() == name)
    await asyncio.wait({looking})
    assert looking.cancelled()
