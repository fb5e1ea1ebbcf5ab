"""Two runs on one image, told apart over HTTP and at the command line, by real `git` too."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.acceptance.api import Api
from tests.support.server import CONTREED, RunningServer

EDITS = (
    "set -e; mkdir -p '/srv/a b'; printf 'one\\ntwo\\nthree\\n' > '/srv/a b/text'; "
    "head -c 9000 /dev/zero > /srv/zeros; echo moved away > /srv/old; ln -s text /srv/link; "
    "mkdir /srv/dir; echo x > /srv/dir/x; echo gone > /srv/dir/gone"
)
FURTHER = (
    "set -e; sed -i s/two/TWO/ '/srv/a b/text'; chmod +x '/srv/a b/text'; mv /srv/old /srv/new; "
    "ln -sf other /srv/link; rm -r /srv/dir; mkdir /srv/dir; echo y > /srv/dir/y; "
    "chown 7 /srv/zeros; touch -d @5 /etc/passwd"
)


@pytest.fixture(scope="module")
def images(api: Api, busybox: str) -> tuple[str, str]:
    first = api.run(busybox, EDITS).want_exit().image
    return first, api.run(first, FURTHER).want_exit().image


def contreed(
    server: RunningServer, *arguments: str, check: int = 0
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [CONTREED, arguments[0], "--data-dir", server.data_dir, *arguments[1:]],
        check=False,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == check, done.stderr
    return done


def tree(api: Api, image: str, into: Path) -> Path:
    answer = api.http.get(f"/inspect/{image}/archive", params={"path": "/srv"})
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        archive.extractall(into, filter="tar")
    return into


def told(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            place = Path(directory) / name
            if place.is_symlink():
                found[str(place.relative_to(root))] = place.readlink()
            elif place.is_file():
                mode = place.stat().st_mode & 0o100
                found[str(place.relative_to(root))] = (place.read_bytes(), mode)
    return found


def test_what_a_run_changed_is_listed(api: Api, images: tuple[str, str]) -> None:
    body = api.get(f"/images/{images[0]}/diff/{images[1]}")
    assert body["base"] == images[0]
    assert [(one["change"], one["path"]) for one in body["changes"]] == [
        ("modified", "/srv/a b/text"),
        ("removed", "/srv/dir/gone"),
        ("removed", "/srv/dir/x"),
        ("added", "/srv/dir/y"),
        ("modified", "/srv/link"),
        ("renamed", "/srv/new"),
        ("metadata", "/srv/zeros"),
    ]
    (zeros,) = [one for one in body["changes"] if one["path"] == "/srv/zeros"]
    assert (zeros["before"]["uid"], zeros["after"]["uid"]) == (0, 7)
    times = api.get(f"/images/{images[0]}/diff/{images[1]}", metadata=1, path="/etc/passwd")
    (passwd,) = times["changes"]
    assert (passwd["change"], passwd["after"]["mtime"]) == (
        "metadata",
        "1970-01-01T00:00:05.000000000Z",
    )


def test_git_applies_what_a_run_changed(
    api: Api, server: RunningServer, images: tuple[str, str], tmp_path: Path
) -> None:
    before, after = (tree(api, image, tmp_path / image) for image in images)
    patch = contreed(server, "diff", *images, "--", "/srv").stdout
    assert b"rename from srv/old\nrename to srv/new\n" in patch
    subprocess.run(["git", "apply", "-"], cwd=before, input=patch, check=True)
    assert told(before) == told(after)
    assert (
        api.http.get(
            f"/images/{images[0]}/diff/{images[1]}", params={"format": "patch", "path": "/srv"}
        ).content
        == patch
    )


def test_the_command_line_has_the_forms_of_git(
    server: RunningServer, images: tuple[str, str]
) -> None:
    short = [image[:13] for image in images]
    names = contreed(server, "diff", *short, "--name-status").stdout
    assert names.splitlines() == [
        b"M\tsrv/a b/text",
        b"D\tsrv/dir/gone",
        b"D\tsrv/dir/x",
        b"A\tsrv/dir/y",
        b"M\tsrv/link",
        b"R100\tsrv/old\tsrv/new",
    ]
    stat = contreed(server, "diff", *short, "--stat", "--exit-code", check=1).stdout
    assert stat.startswith(b"1 added, 2 removed, 2 modified, 1 renamed, 0 type, 1 metadata; ")
    assert contreed(server, "diff", short[0], short[0], "--exit-code").stdout == b""
    narrow = contreed(server, "diff", *short, "--name-status", "--", "srv/new", "/srv/dir").stdout
    assert narrow.splitlines() == [
        b"D\tsrv/dir/gone",
        b"D\tsrv/dir/x",
        b"A\tsrv/dir/y",
        b"A\tsrv/new",
    ]


def test_the_run_that_changed_a_path_is_found(
    api: Api, server: RunningServer, busybox: str, images: tuple[str, str]
) -> None:
    entries = api.get(f"/images/{images[1]}/log", path="/srv/new", follow=1)["entries"]
    assert [entry["image"] for entry in entries] == [images[1], images[0]]
    assert [entry["command"] for entry in entries] == [FURTHER, EDITS]
    assert {entry["actor"] for entry in entries} == {api.get("/whoami")["token_uuid"]}
    assert entries[0]["changes"][0]["from_path"] == "/srv/old"
    whole = contreed(server, "log", images[1], "--oneline").stdout.decode().splitlines()
    assert [line[:8] for line in whole] == [image[:8] for image in (*images[::-1], busybox)]


def test_the_run_that_wrote_a_line_is_found(
    api: Api, server: RunningServer, busybox: str, images: tuple[str, str]
) -> None:
    body = api.get(f"/images/{images[1]}/blame", path="/srv/a b/text")
    assert [(one["line"], one["image"], one["text"]) for one in body["lines"]] == [
        (1, images[0], "one"),
        (2, images[1], "TWO"),
        (3, images[0], "three"),
    ]
    lines = contreed(server, "blame", images[1], "/srv/a b/text").stdout.splitlines()
    assert [line[:8].decode() for line in lines] == [images[n][:8] for n in (0, 1, 0)]
    root = api.get(f"/images/{images[1]}/blame", path="/")["children"]
    assert {one["path"]: one["image"] for one in root}["/srv"] == images[1]
    assert {one["path"]: one["image"] for one in root}["/etc"] == busybox


def test_what_is_not_there_is_said_on_one_line(
    server: RunningServer, project: str, images: tuple[str, str]
) -> None:
    unknown = "00000000-0000-4000-8000-00000000ffff"
    done = contreed(server, "diff", images[0], unknown, check=1)
    assert done.stderr == f"contreed: image '{unknown}' was not found\n".encode()
    done = contreed(server, "diff", images[0], "tag:none", "--project", project, check=1)
    assert done.stderr == b"contreed: tag 'none' was not found\n"
