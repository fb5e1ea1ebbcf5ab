"""WWW-Authenticate as registries write it, and as nobody should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.registry.challenges import Challenge, challenges

BOTH = [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]
HUB = {"realm": "https://auth.test/token", "service": "registry.test", "scope": "a:b/c:pull"}


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], []),
        (['Basic realm="x"'], [("basic", {"realm": "x"})]),
        (["Basic"], [("basic", {})]),
        (
            ['Bearer realm="https://auth.test/token",service="registry.test",scope="a:b/c:pull"'],
            [("bearer", HUB)],
        ),
        (["BEARER Realm = x , Service=y"], [("bearer", {"realm": "x", "service": "y"})]),
        (['Bearer realm="a\\"b"'], [("bearer", {"realm": 'a"b'})]),
        (
            ['Basic realm="x", Bearer realm="y"'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})],
        ),
        (
            ["Basic realm=x", "Bearer realm=y"],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})],
        ),
        (['"nonsense'], []),
    ],
)
def test_challenges_are_read(headers: list[str], found: list[tuple[str, dict[str, str]]]) -> None:
    assert challenges(headers) == [
        Challenge(scheme=scheme, parameters=parameters) for scheme, parameters in found
    ]


@given(st.lists(st.text(max_size=200), max_size=3))
def test_any_text_is_read_without_an_error(headers: list[str]) -> None:
    assert all(one.scheme for one in challenges(headers))
