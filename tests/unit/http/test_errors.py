"""The error table against every subclass, and the shape of every refusal, over a live app."""

from __future__ import annotations

import logging

import pytest

from contree.domain import errors
from contree.http.errors import STATUS_BY_ERROR, status_of
from tests.unit.http.world import Api, World


def test_every_error_of_the_domain_has_a_status_of_its_own() -> None:
    classes = {e for e in vars(errors).values() if isinstance(e, type)}
    assert {e for e in classes if issubclass(e, errors.ContreeError)} == STATUS_BY_ERROR.keys()


def test_an_error_that_an_adapter_declares_is_answered_like_its_parent() -> None:
    class Adapters(errors.ContreeError):
        """Declared elsewhere."""

    class Reset(errors.UnavailableError):
        """Declared elsewhere."""

    assert status_of(Adapters("x")) == 500
    assert status_of(Reset("x")) == 503


def test_a_condition_that_does_not_go_away_is_never_a_status_that_clients_retry() -> None:
    retried = {e for e, status in STATUS_BY_ERROR.items() if status >= 500 or status in {425, 429}}
    faults_of_ours = {e for e in retried if issubclass(e, errors.OperationFailure)}
    assert retried - faults_of_ours == {
        errors.UnavailableError,
        errors.ContreeError,
        errors.TooEarlyError,  # nothing was done yet; ends with the instance at the latest
        errors.OutcomeUnknownError,
    }


async def test_an_unknown_route_is_a_json_404(anonymous: Api) -> None:
    response = await anonymous.get("/v1/nowhere")
    body = await response.json()
    assert response.status == body["status"] == 404
    assert "/v1/nowhere" in body["error"]


async def test_a_wrong_method_is_a_json_405_that_says_what_is_allowed(api: Api) -> None:
    response = await api.put("/v1/images")
    assert response.status == (await response.json())["status"] == 405
    assert response.headers["Allow"] == "GET"


async def test_an_unexpected_failure_tells_nothing_of_our_insides_and_is_logged_with_the_id(
    api: Api, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    image_id = await world.image()
    world.files.data.pop("/")  # makes the fake stumble with a KeyError
    with caplog.at_level(logging.ERROR):
        response = await api.get(
            f"/v1/inspect/{image_id}/archive?path=/", headers={"X-Request-Id": "here-1"}
        )
    body = await response.json()
    assert response.status == body["status"] == 500
    assert "KeyError" not in body["error"]
    assert "here-1" in body["error"]
    assert any("here-1" in r.message and r.exc_info for r in caplog.records)


async def test_a_database_that_is_away_is_a_503_with_a_time_to_wait(api: Api, world: World) -> None:
    image_id = await world.image()
    world.log.available = False
    response = await api.delete(f"/v1/operations/{image_id}")
    assert response.status == 503
    assert int(response.headers["Retry-After"]) >= 1


async def test_head_has_no_body_whatever_the_status(api: Api, world: World) -> None:
    image_id = await world.image()
    for path in ("/v1/nowhere", f"/v1/inspect/{image_id}/download?path=/none", "/v1/images"):
        response = await api.head(path)
        assert response.status in {404, 405}
        assert await response.read() == b""


@pytest.mark.parametrize("sent", ["client-7", "A.b:c_d-9"])
async def test_a_request_id_is_taken_over(api: Api, sent: str) -> None:
    response = await api.get("/v1/whoami", headers={"X-Request-Id": sent})
    assert response.headers["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, "a b", "sp\tace", "ü"])
async def test_a_request_id_that_is_no_word_is_replaced(api: Api, sent: str) -> None:
    response = await api.get("/v1/whoami", headers={"X-Request-Id": sent})
    assert response.headers["X-Request-Id"] != sent
    assert len(response.headers["X-Request-Id"]) == 32


async def test_each_request_is_one_line_in_the_log_without_its_query(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="contree.http.access_log"):
        await api.get("/v1/images?tag=private", headers={"X-Request-Id": "line-1"})
    (line,) = [r.message for r in caplog.records if "line-1" in r.message]
    assert "method=GET path=/v1/images status=200" in line
    assert "private" not in line
