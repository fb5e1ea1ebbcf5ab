"""One server with a registry beside it for all tests here; each module has a project of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from infra.images.registry import RunningRegistry
from infra.images.rootfs import small_image
from tests.acceptance.api import Api
from tests.acceptance.terminal import Terminal
from tests.support.server import ANY_PORT, RunningServer, running_server

TWO_AT_ONCE = {"CONTREED_INSTANCES_HERE": "2", "CONTREED_CPU_OVERCOMMIT": "2"}
"""Two runs, however many cores there are: some tests want one more to wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/acceptance/" in str(item.path):
            item.add_marker(pytest.mark.acceptance)


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """The server most tests share, and modules with one of their own learn from.

    When the session ends, nothing of it may be left.
    """
    measured = ("CONTREED_METRICS_LISTEN", "CONTREED_WORKER_METRICS_LISTEN")
    environment = {**TWO_AT_ONCE, **dict.fromkeys(measured, ANY_PORT)}
    with running_server(environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def busybox_url(registry: RunningRegistry) -> str:
    """Where the registry has busybox; `docker://HOST:PORT/library/busybox:latest`."""
    image = small_image()
    return registry.push(image.layout, image.tag, image.repository)


@pytest.fixture(scope="module")
def project(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^a-z]", "-", request.module.__name__.rpartition(".")[2].removeprefix("test_"))


@pytest.fixture(scope="module")
def token(server: RunningServer, project: str) -> str:
    """A token of the module's project with every permission."""
    return server.token(project)


@pytest.fixture(scope="module")
def api(server: RunningServer, token: str) -> Iterator[Api]:
    client = Api(server.url, token)
    yield client
    client.close()


@pytest.fixture(scope="module")
def busybox(api: Api, busybox_url: str) -> str:
    """The UUID of busybox in the module's project."""
    return api.import_image(busybox_url, tag="busybox:latest")


@pytest.fixture(scope="module")
def terminal(
    server: RunningServer, token: str, busybox: str, tmp_path_factory: pytest.TempPathFactory
) -> Terminal:
    """contree-cli, logged in to the module's project, which has busybox."""
    made = Terminal(tmp_path_factory.mktemp("home"))
    made.log_in(server.url, token)
    return made


@pytest.fixture
def api_of() -> Iterator[Callable[[RunningServer, str], Api]]:
    """Make clients for servers of a test's own; they are closed after it."""
    made: list[Api] = []

    def make(server: RunningServer, token: str) -> Api:
        made.append(Api(server.url, token))
        return made[-1]

    yield make
    for client in made:
        client.close()
