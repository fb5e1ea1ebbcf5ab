"""The history of a real server, asked over HTTP and at the command line. No guest is booted."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.acceptance.api import Api
from tests.support.server import CONTREED, RunningServer

ALL = "import,spawn,spawn_disposable,list,cancel,set_image_tag,audit"


@pytest.fixture(scope="module")
def token(server: RunningServer, project: str) -> str:
    """One that may also look into the history."""
    return server.token(project, permissions=ALL)


@pytest.fixture(scope="module")
def auditor(server: RunningServer, token: str) -> Iterator[Api]:
    api = Api(server.url, token)
    yield api
    api.close()


def types(events: list[dict[str, str]]) -> list[str]:
    return [event["type"].removeprefix("contree.") for event in events]


def test_a_token_may_not_audit_unless_it_was_asked_for(server: RunningServer) -> None:
    plain = Api(server.url, server.token("audit-plain"))
    assert plain.get("/whoami")["permissions"]["audit"] is False
    refused = plain.refusal("GET", "/audit/events")
    assert (refused["status"], "'audit'" in refused["error"]) == (403, True)
    plain.close()


def test_who_acts_finds_it_in_the_history_at_once(
    auditor: Api, busybox: str, server: RunningServer, project: str
) -> None:
    for number in range(5):
        auditor.http.patch(f"/images/{busybox}/tag", json={"tag": f"at-once-{number}"})
        (event,) = auditor.get("/audit/events", tag=f"at-once-{number}")["events"]
        assert event["data"]["image_id"].replace("-", "") == busybox.replace("-", "")
    page = auditor.get("/audit/events", image=busybox, order="desc", limit=1)
    assert types(page["events"]) == ["tag.assigned"]
    assert int(page["next"]) == int(page["events"][0]["id"]) - 1
    said = server.contreed("audit", "log", "--project", project, "--tag", "at-once-4", "--json")
    assert json.loads(said.stdout) == event
    looks = server.contreed("audit", "log", "--type", "contree.audit.", "--project", project)
    assert re.search(r"Z  operator  audit\.read  audit/", looks.stdout)


def test_the_past_of_a_tag_is_answered(auditor: Api, busybox: str) -> None:
    auditor.http.patch(f"/images/{busybox}/tag", json={"tag": "moves"})
    position = auditor.get("/audit/events", tag="moves")["events"][-1]["id"]
    auditor.http.delete(f"/images/{busybox}/tag", params={"tag": "moves"})
    then = auditor.get("/images", tag="moves", as_of=f"@{position}")["images"]
    assert [image["uuid"] for image in then] == [busybox]
    assert auditor.get("/images", tag="moves", as_of="0s")["images"] == []
    before = auditor.get("/images", as_of=f"@{int(position) - 1}", tag="moves")
    assert before["images"] == []
    refused = auditor.refusal("GET", "/images", params={"as_of": "@999999999"})
    assert refused["field"] == "as_of"


def test_lineage_is_drawn(
    auditor: Api, busybox: str, busybox_url: str, server: RunningServer, project: str
) -> None:
    (image,) = auditor.get(f"/images/{busybox}/lineage")["images"]
    assert image["operation"]["registry_url"] == busybox_url
    done = server.contreed("lineage", "tag:busybox:latest", "--project", project)
    assert re.fullmatch(
        rf"\* {busybox[:8]}  \[.*busybox:latest.*\]  <- here  .* import {re.escape(busybox_url)}\n",
        done.stdout,
    )
    assert server.contreed("lineage", busybox).stdout == done.stdout
    whole = server.contreed("lineage", busybox, "--whole-ids").stdout
    assert whole == done.stdout.replace(busybox[:8], busybox, 1)


def test_a_feed_shows_what_comes(auditor: Api, busybox: str) -> None:
    head = auditor.get("/audit/events", limit=1)["head"]
    query = {"follow": "1", "format": "ndjson", "after": head, "type": "contree.tag."}
    with auditor.http.stream("GET", "/audit/events", params=query) as feed:
        lines = (json.loads(line) for line in feed.iter_lines() if line)
        for name in ("fed-1", "fed-2"):
            answer = httpx.patch(
                f"{auditor.url}/v1/images/{busybox}/tag",
                json={"tag": name},
                headers={"Authorization": f"Bearer {auditor.token}"},
            )
            assert answer.status_code == 200
            assert next(lines)["data"]["name"] == name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--type", "contree.nothing"), "there are contree.audit.read"),
        (("--operation", "x"), "operation: 'x' is not a UUID"),
        (("--since", "soon"), "since: use an interval"),
        (("--until", "2999-01-01"), "is in the future"),
        (("--after", "99999999"), "beyond the end of the log"),
        (("--after", "-1"), "0 or more"),
        (("--limit", "-1"), "0 or more"),
        (("--follow", "--reverse"), "goes forwards"),
    ],
)
def test_the_command_refuses_bad_questions(
    server: RunningServer, arguments: tuple[str, ...], said: str
) -> None:
    done = server.contreed("audit", "log", *arguments, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_an_operator_follows(
    server: RunningServer, auditor: Api, busybox: str, project: str
) -> None:
    head = auditor.get("/audit/events", limit=1)["head"]
    command = [
        *(CONTREED, "audit", "log", "--follow", "--json", "--after", head, "--project", project),
        *("--type", "contree.tag.", "--data-dir", server.data_dir),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        auditor.http.patch(f"/images/{busybox}/tag", json={"tag": "followed"})
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["data"]["name"] == "followed"
        following.send_signal(2)
        assert following.wait(300) == 130
