"""Searching images through the app on fakes: parameters, the answer's shape, refusals."""

from __future__ import annotations

from uuid import UUID

import pytest
from yarl import URL

from contree.app.images.image_search import CaseMode
from contree.app.images.layer_store import EntryType
from contree.domain.token import Permission
from tests.unit.http.world import Api, World, bearer

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"


@pytest.fixture
async def image_id(world: World) -> UUID:
    world.files.add("/etc", EntryType.DIRECTORY)
    world.files.add("/etc/passwd", data=b"root:x\nuser:x\nROOT again\n")
    world.files.add("/etc/caf\udce9", data=b"root of latin\n")
    world.files.add("/readme", data=b"the root\n")
    return await world.image()


async def test_matches_and_their_context_come_with_all_keys(api: Api, image_id: UUID) -> None:
    url = f"/v1/inspect/{image_id}/grep?pattern=^r[o]%2Bt&path=etc/passwd&after=1"
    assert await (await api.get(URL(url, encoded=True))).json() == {
        "path": "etc/passwd",
        "patterns": ["^r[o]+t"],
        "matches": [
            {
                "path": "/etc/passwd",
                "line_number": 1,
                "absolute_offset": 0,
                "line_text": "root:x\n",
                "line_bytes": 7,
                "submatches": [{"text": "root", "start": 0, "end": 4}],
                "type": "match",
            },
            {
                "path": "/etc/passwd",
                "line_number": 2,
                "absolute_offset": 7,
                "line_text": "user:x\n",
                "line_bytes": 7,
                "submatches": [],
                "type": "context",
            },
        ],
        "truncated": False,
    }


async def test_nothing_found_is_an_empty_answer(api: Api, image_id: UUID) -> None:
    response = await api.get(f"/v1/inspect/{image_id}/grep?pattern=nobody")
    assert response.status == 200
    assert (await response.json())["matches"] == []


async def test_patterns_and_paths_may_be_repeated(api: Api, image_id: UUID) -> None:
    url = f"/v1/inspect/{image_id}/grep?pattern=the&pattern=again&path=/readme&path=/etc"
    body = await (await api.get(url)).json()
    assert [match["path"] for match in body["matches"]] == ["/readme", "/etc/passwd"]
    assert (body["path"], body["patterns"]) == ("/readme", ["the", "again"])


async def test_the_whole_image_is_searched_with_defaults(
    api: Api, image_id: UUID, world: World
) -> None:
    body = await (await api.get(f"/v1/inspect/{image_id}/grep?pattern=root")).json()
    assert body["path"] == "/"
    assert [match["path"] for match in body["matches"]] == [
        "/etc/caf\ufffd",
        "/etc/passwd",
        "/readme",
    ]
    (query,) = world.search.queries
    assert (query.globs, query.max_count, query.max_total) == ([], None, 1000)
    assert (query.case, query.before, query.after) == (CaseMode.SENSITIVE, 0, 0)


async def test_every_parameter_reaches_the_search(api: Api, image_id: UUID, world: World) -> None:
    url = "grep?pattern=root&glob=*&glob=!re*&max_count=2&max_total=3&case=smart&before=4&after=50"
    assert (await api.get(f"/v1/inspect/{image_id}/{url}")).status == 200
    (query,) = world.search.queries
    assert (query.globs, query.max_count, query.max_total) == (["*", "!re*"], 2, 3)
    assert (query.case, query.before, query.after) == (CaseMode.SMART, 4, 50)


async def test_more_matches_than_asked_for_are_told(api: Api, image_id: UUID) -> None:
    body = await (await api.get(f"/v1/inspect/{image_id}/grep?pattern=root&max_total=1")).json()
    assert (len(body["matches"]), body["truncated"]) == (1, True)


async def test_a_path_that_is_not_utf_8_is_found_by_its_bytes(api: Api, image_id: UUID) -> None:
    url = URL(f"/v1/inspect/{image_id}/grep?pattern=latin&path=/etc/caf%E9", encoded=True)
    assert len((await (await api.get(url)).json())["matches"]) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "pattern"),
        ("pattern=(", "pattern"),
        ("pattern=" + "a" * 1025, "pattern"),
        ("pattern=%00", "pattern"),
        ("&".join(["pattern=a"] * 17), "pattern"),
        ("pattern=a&path=", "path"),
        ("pattern=a&path=/etc&path=/etc/..", "path"),
        ("pattern=a&" + "&".join(["path=/"] * 17), "path"),
        ("pattern=a&" + "&".join(["glob=a"] * 17), "glob"),
        ("pattern=a&glob=%00", "glob"),
        ("pattern=a&glob=" + "a" * 1025, "glob"),
        ("pattern=a&case=upper", "case"),
    ]
    + [
        (f"pattern=a&{name}={value}", name)
        for name, values in {
            "max_count": ("0", "10001", "-1", "x", "1.5", ""),
            "max_total": ("0", "10001", "-1", "x"),
            "before": ("-1", "51", "x"),
            "after": ("-1", "51", "x"),
        }.items()
        for value in values
    ],
)
async def test_what_cannot_be_searched_is_refused_and_the_field_named(
    api: Api, image_id: UUID, query: str, field: str
) -> None:
    response = await api.get(URL(f"/v1/inspect/{image_id}/grep?{query}", encoded=True))
    body = await response.json()
    assert (response.status, body["field"]) == (400, field)


async def test_a_missing_image_or_path_is_a_404(api: Api, image_id: UUID) -> None:
    for url in (f"{UNKNOWN}/grep?pattern=a", f"{image_id}/grep?pattern=a&path=/none"):
        assert (await api.get(f"/v1/inspect/{url}")).status == 404
    assert (await api.get("/v1/inspect/x/grep?pattern=a")).status == 400


async def test_searching_needs_the_permission_to_list(
    anonymous: Api, image_id: UUID, world: World
) -> None:
    secret = await world.token(permissions=[p for p in Permission if p is not Permission.LIST])
    url = f"/v1/inspect/{image_id}/grep?pattern=a"
    assert (await anonymous.get(url, headers=bearer(secret))).status == 403
    assert (await anonymous.get(url)).status == 401
