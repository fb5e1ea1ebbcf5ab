"""contree-sdk's sandbox for LangChain's deepagents, on Debian with the Python that these need."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from contree_sdk import Contree
from contree_sdk.auth import JWTAuth
from contree_sdk.config import ContreeConfig
from contree_sdk.langchain.sandbox import ContreeSandbox

from infra.images.registry import RunningRegistry
from infra.images.rootfs import python_image
from tests.acceptance.api import Api
from tests.acceptance.sdk import POLL_SECS_MAX, signed_in
from tests.support.server import RunningServer


@pytest.fixture(scope="module")
def debian(api: Api, registry: RunningRegistry) -> str:
    image = python_image()
    return api.import_image(registry.push(image.layout, image.tag, image.repository), tag="py:1")


@pytest.fixture
async def contree(server: RunningServer, token: str) -> AsyncIterator[Contree]:
    auth = JWTAuth(token=token, base_url=server.url)
    made = Contree(ContreeConfig(auth=auth, operation_poll_secs_max=POLL_SECS_MAX))
    yield made
    await made._api._client.aclose()


async def test_an_agent_works_in_a_session(contree: Contree, debian: str) -> None:
    image = await contree.images.use("py:1", strict=True)
    sandbox = ContreeSandbox(image.session())
    assert debian in sandbox.id

    files = [("/work/a.py", b"print('a')\n"), ("/work/b.txt", b"needle\n"), ("relative", b"")]
    placed = await sandbox.aupload_files(files)
    assert [answer.error for answer in placed] == [None, None, "invalid_path"]
    wanted = ["/work/b.txt", "/no/such", "/work", "relative"]
    fetched = await sandbox.adownload_files(wanted)
    assert fetched[0].content == b"needle\n"
    assert [answer.error for answer in fetched[1:]] == [
        "file_not_found", "invalid_path", "invalid_path",
    ]  # fmt: skip

    done = await sandbox.aexecute("python3 /work/a.py; echo err >&2; exit 3", timeout=600)
    assert (done.output, done.exit_code, done.truncated) == ("a\nerr\n", 3, False)
    done = await sandbox.aexecute("cd /work; yes x | head -c 11000000")
    assert (len(done.output), done.truncated) == (10 * 1024 * 1024, True)

    # What deepagents makes of these four methods: scripts for the guest's shell and Python.
    written = await sandbox.awrite("/work/new/c.txt", "one\ntwo needle\n")
    assert written.error is None
    edited = await sandbox.aedit("/work/new/c.txt", "two", "2")
    assert (edited.error, edited.occurrences) == (None, 1)
    read = await sandbox.aread("/work/new/c.txt")
    assert read.file_data is not None
    assert read.file_data["content"] == "one\n2 needle"
    listed = await sandbox.als("/work")
    assert {entry["path"] for entry in listed.entries or []} >= {"/work/a.py", "/work/new"}
    found = await sandbox.aglob("**/*.txt", "/work")
    assert {entry["path"] for entry in found.matches or []} == {"/work/b.txt", "/work/new/c.txt"}
    hits = await sandbox.agrep("needle", "/work")
    assert {(hit["path"], hit["line"]) for hit in hits.matches or []} == {
        ("/work/b.txt", 1),
        ("/work/new/c.txt", 2),
    }


def test_the_same_without_asyncio(server: RunningServer, token: str, debian: str) -> None:
    with signed_in(JWTAuth(token=token, base_url=server.url)) as contree:
        sandbox = ContreeSandbox(contree.images.use("py:1", strict=True).session())
        assert [answer.error for answer in sandbox.upload_files([("/a", b"1")])] == [None]
        assert sandbox.execute("cat /a").output == "1"
        assert sandbox.download_files(["/a"])[0].content == b"1"
