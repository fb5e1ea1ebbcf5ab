"""One API over fakes for each test, and a client that carries a token with every permission."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.http.world import Api, World, bearer


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def api(world: World) -> AsyncIterator[Api]:
    """A client with the token's header set, unless the call sets its own."""
    client = world.client()
    async with client:
        client.session.headers.update(bearer(await world.token()))
        yield client


@pytest.fixture
async def anonymous(world: World) -> AsyncIterator[Api]:
    async with world.client() as client:
        yield client
