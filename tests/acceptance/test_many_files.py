"""Many files at once: a thousand of a request, and archives of thousands, as a guest sees them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile

import pytest

from tests.acceptance.api import Api
from tests.support.registry import tar_of

WHEN = 1_234_567_890
COUNT = 1000


def tar_of_a_tree() -> bytes:
    """2,000 files in 20 directories, and one of each other kind."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, content: bytes = b"", **fields: object) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.gid = len(content), WHEN, 1000, 1001
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))

        for directory in range(20):
            add(f"d{directory}", type=tarfile.DIRTYPE, mode=0o750)
            for number in range(100):
                add(f"d{directory}/f{number}", b"%d" % number)
        add("bin/run", b"#!/bin/sh\necho ran\n", mode=0o755)
        add("link", type=tarfile.SYMTYPE, linkname="bin/run")
        add("hard", type=tarfile.LNKTYPE, linkname="bin/run")
        add("over", b"replaced")
    return out.getvalue()


@pytest.fixture(scope="module")
def tree(api: Api) -> str:
    return api.upload(gzip.compress(tar_of_a_tree()))


def test_a_thousand_files_of_a_request_are_all_there(api: Api, busybox: str) -> None:
    kinds = [api.upload(b"content %d\n" % kind) for kind in range(10)]
    files = {f"/src/d{n % 7}/f{n}": {"uuid": kinds[n % 10]} for n in range(COUNT)}
    ran = api.run(
        busybox,
        "cd /src; find . -type f | wc -l; cat d*/f* | sort | uniq -c",
        files=files,
        disposable=True,
    )
    count, *contents = ran.want_exit().lines
    assert int(count) == COUNT
    each = str(COUNT // 10)
    assert [line.split() for line in contents] == [[each, "content", str(n)] for n in range(10)]


def test_an_archive_is_unpacked_as_it_says(api: Api, busybox: str, tree: str) -> None:
    files = {
        "/over": {"uuid": api.upload(b"was here")},
        "/src": {"uuid": tree, "unpack": True},
    }
    ran = api.run(
        busybox,
        "cd /src; find . -type f | wc -l; stat -c '%n %u:%g %a %Y' d7 d7/f42 bin/run;"
        " cat d7/f42; echo; ./link; readlink link; stat -c %h hard; cat over /over",
        files=files,
    )
    assert ran.want_exit().lines == [
        "2003",
        f"d7 1000:1001 750 {WHEN}",
        f"d7/f42 1000:1001 644 {WHEN}",
        f"bin/run 1000:1001 755 {WHEN}",
        "42",
        "ran",
        "bin/run",
        "2",
        "replacedwas here",
    ]
    assert ran.operation["metadata"]["files"]["/src"] == {
        "uuid": tree,
        "uid": 0,
        "gid": 0,
        "mode": "0644",
        "unpack": True,
    }
    # It is in the image like anything else, and a replay puts it there again.
    assert len(api.listing(ran.image, "/src/d7")) == 100
    answer = api.http.post(f"/operations/{ran.uuid}/replay", json={})
    assert answer.status_code == 201, answer.text
    replayed = api.wait(answer.json()["uuid"])
    assert replayed["metadata"]["result"]["stdout"] == ran.operation["metadata"]["result"]["stdout"]


def test_a_zip_over_the_image_has_the_owner_that_is_asked_for(api: Api, busybox: str) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("etc/made", (2009, 2, 13, 23, 31, 30))
        info.create_system, info.external_attr = 3, 0o100640 << 16
        archive.writestr(info, b"by zip\n")
        archive.writestr("bin/", b"")
    files = {"/": {"uuid": api.upload(out.getvalue()), "unpack": True, "uid": 7, "gid": 8}}
    command = "stat -c '%u:%g %a %Y' /etc/made; cat /etc/made; ls /bin/sh"
    ran = api.run(busybox, command, files=files, disposable=True)
    assert ran.want_exit().lines == [f"7:8 640 {WHEN}", "by zip", "/bin/sh"]


def test_what_is_no_archive_or_too_large_fails_before_the_command(
    api: Api, busybox: str, tree: str
) -> None:
    large = api.upload(gzip.compress(tar_of([("zeros", bytes(4097))])))
    orders = {
        "cannot be unpacked": {"files": {"/a": {"uuid": api.upload(b"x" * 999), "unpack": True}}},
        "max_layer_bytes": {
            "files": {"/a": {"uuid": large, "unpack": True}},
            "resources_limits": {"max_layer_bytes": 4096},
        },
    }
    for words, order in orders.items():
        ran = api.run(busybox, "echo never", status="FAILED", **order)
        assert ran.error.startswith("file /a: cannot be unpacked: ")
        assert words in ran.error
        assert ran.operation["metadata"]["result"] is None
    body = {"image": busybox, "command": "true"}
    wrong = {"/a": {"uuid": tree, "unpack": True, "mode": "0644"}}
    refused = api.refusal("POST", "/instances", content=json.dumps({**body, "files": wrong}))
    assert (refused["status"], refused["field"]) == (400, "files['/a'].mode")
