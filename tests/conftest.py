"""Fixtures that several folders share; each starts what it needs and stops it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings

from infra.images.registry import RunningRegistry, running_registry
from tests.support.postgres import (  # fixtures
    database,
    empty_postgres_dsn,
    listener,
    postgres_dsn,
    postgres_pool,
    postgres_server,
)
from tests.support.s3 import s3_endpoint, s3_place  # fixtures
from tests.vm.fixtures import base_layer, box, guest_assets, microvm, short_dir  # fixtures

# The same examples each time: what fails here fails there. `HYPOTHESIS_PROFILE=search` looks for
# new ones, as long as one likes; what it finds becomes a test of its own.
settings.register_profile("same", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("search", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Who starts us in the background may have us ignore Ctrl-C, which what we start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = [
    "base_layer",
    "box",
    "database",
    "empty_postgres_dsn",
    "guest_assets",
    "listener",
    "microvm",
    "postgres_dsn",
    "postgres_pool",
    "postgres_server",
    "s3_endpoint",
    "s3_place",
    "short_dir",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test an id of its own: of several with one id, pytest-xdist would run one.

    Schemathesis gives all operations of a document the id of the one function.
    """
    for item in items:
        if item.parent is not None and not item.nodeid.endswith(f"::{item.name}"):
            item._id = item.id.parse(f"{item.parent.nodeid}::{item.name}")
    twice = [nodeid for nodeid, count in Counter(i.nodeid for i in items).items() if count > 1]
    assert not twice, twice


@pytest.fixture(scope="session")
def registry() -> Iterator[RunningRegistry]:
    """A real registry on loopback that anyone may use."""
    with running_registry() as running:
        yield running


@pytest.fixture(scope="session")
def guarded_registry() -> Iterator[RunningRegistry]:
    """A real registry on loopback that wants USERNAME and PASSWORD of infra.images.registry."""
    with running_registry(password=True) as running:
        yield running
