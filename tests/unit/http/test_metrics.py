"""What requests are measured as: routes and methods of ours, never what a client makes up."""

from __future__ import annotations

from aiohttp.test_utils import TestClient, TestServer

from contree.http.app import create_app
from contree.http.metrics import create_metrics_app
from tests.unit.http.world import World, bearer


class Notes:
    """RequestMeter that writes down what it is told."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str, int]] = []

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.answers.append((method, route, status))


async def test_labels_are_patterns_and_known_methods() -> None:
    world, notes = World(), Notes()
    headers = bearer(await world.token())
    async with TestClient(TestServer(create_app(world.services(), notes))) as client:
        await client.get("/healthz")
        await client.get(f"/v1/operations/{world.ids.new_id()}", headers=headers)
        await client.get("/v1/whoami")
        await client.get("/no/such/path", headers=headers)
        await client.request("PROPFIND", "/healthz", headers=headers)
    assert notes.answers == [
        ("GET", "/healthz", 200),
        ("GET", "/v1/operations/{operation_uuid}", 404),
        ("GET", "/v1/whoami", 401),
        ("GET", "other", 404),
        ("other", "other", 405),
    ]


class Given:
    async def exposition(self, accept: str) -> tuple[bytes, str]:
        return accept.encode(), "text/plain; version=0.0.4; charset=utf-8"


async def test_a_scrape_needs_no_token_and_says_what_it_reads() -> None:
    async with TestClient(TestServer(create_metrics_app(Given()))) as client:
        answer = await client.get("/metrics", headers={"Accept": "text/plain"})
        assert (answer.status, await answer.text()) == (200, "text/plain")
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert (await client.get("/v1/whoami")).status == 404
