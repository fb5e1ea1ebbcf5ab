"""What contree-sdk offers beside runs and images: profiles, streams, limits, runs side by side."""

from __future__ import annotations

import asyncio
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from contree_sdk import Contree, ContreeSync
from contree_sdk.auth import JWTAuth
from contree_sdk.config import ContreeConfig
from contree_sdk.sdk.exceptions import OperationTimedOutError
from contree_sdk.sdk.objects.image import ContreeImageSync

from infra.images.registry import PASSWORD, USERNAME, RunningRegistry
from infra.images.rootfs import small_image
from tests.acceptance.api import Api
from tests.acceptance.sdk import POLL_SECS_MAX, signed_in
from tests.support.server import RunningServer


@pytest.fixture
def contree(
    server: RunningServer, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ContreeSync]:
    """Signed in by the profile that `contree auth` writes."""
    (tmp_path / "auth.ini").write_text(
        "[DEFAULT]\nprofile = mine\n"
        f"[profile:mine]\nurl = {server.url}\ntoken = {token}\ntype = jwt\n"
    )
    monkeypatch.setenv("CONTREE_HOME", str(tmp_path))
    with signed_in(JWTAuth()) as client:
        yield client


@pytest.fixture
def base(contree: ContreeSync, busybox: str) -> ContreeImageSync:
    return contree.images.use(busybox, strict=True)


def test_the_token_tells_of_itself(contree: ContreeSync) -> None:
    info = contree.get_token_info()
    assert info.permissions["spawn_disposable"] is True
    assert info.limits["instance_max_timeout"] >= 1000  # the SDK's own default
    assert info.token_expiration is None


def test_files_are_uploaded_once(contree: ContreeSync, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"of the SDK" * 300_000)
    first = contree.files.upload(local)
    assert contree.files.upload(local).uuid == first.uuid
    local.write_bytes(b"")
    assert contree.files.upload(local).uuid != first.uuid


def test_a_guarded_registry_opens_to_its_password(
    contree: ContreeSync, guarded_registry: RunningRegistry, busybox: str
) -> None:
    image = small_image()
    url = guarded_registry.push(image.layout, image.tag, image.repository)
    imported = contree.images.import_from(url, tag="sdk/g:1", username=USERNAME, password=PASSWORD)
    assert (str(imported.uuid), imported.tag) == (busybox, "sdk/g:1")


def test_streams_are_files_pipes_and_paths(base: ContreeImageSync, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file\n")
    out, err = io.BytesIO(), tmp_path / "err"
    base.run(shell="cat; echo >&2 err", stdin=tmp_path / "in", stdout=out, stderr=err).wait()
    assert (out.getvalue(), err.read_bytes()) == (b"from a file\n", b"err\n")
    process = base.popen(
        ["sh", "-c", "wc -c; exit 4"], stdin=subprocess.PIPE, text=True, check=True
    )
    assert process.stdin is not None
    process.stdin.write(b"12345")
    process.stdin.close()
    with pytest.raises(subprocess.CalledProcessError) as failed:
        process.wait()
    assert (failed.value.returncode, failed.value.output) == (4, "5\n")


def test_kept_environment_and_a_wait_that_gives_up(
    base: ContreeImageSync, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = base.run(shell="true", env={"A": "kept"}, preserve_env=True, disposable=False).wait()
    assert kept.uuid != base.uuid
    assert kept.run(shell="echo $A").wait().stdout == "kept\n"
    prepared = base.run(shell="sleep 600")
    patient = prepared._client._wait_operation

    async def wait(operation_uuid: UUID, result_type: type, timeout: float) -> object:
        # The SDK tells the server the same number: only so it is sure to give up first.
        return await patient(operation_uuid, result_type, timeout=0.5)

    monkeypatch.setattr(prepared._client, "_wait_operation", wait)
    with pytest.raises(OperationTimedOutError):
        prepared.wait()
    given_up, *_ = api.get("/operations", limit=1)
    # The SDK cancels what it does not wait for.
    assert api.wait(given_up["uuid"])["status"] == "CANCELLED"


async def test_many_run_side_by_side_and_the_list_is_iterated(
    server: RunningServer, token: str, busybox: str, api: Api
) -> None:
    auth = JWTAuth(token=token, base_url=server.url)
    contree = Contree(ContreeConfig(auth=auth, operation_poll_secs_max=POLL_SECS_MAX))
    image = await contree.images.use(busybox)
    ran = await asyncio.gather(*(image.run(shell=f"echo {n}") for n in range(4)))
    assert [result.stdout for result in ran] == [f"{n}\n" for n in range(4)]
    assert busybox in {str(found.uuid) async for found in contree.images}

    async def run_for_long() -> None:
        await image.run(shell="sleep 600")

    running = asyncio.create_task(run_for_long())
    while not (seen := await asyncio.to_thread(api.get, "/operations", status="EXECUTING")):
        assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await asyncio.to_thread(api.wait, seen[0]["uuid"]))["status"] == "CANCELLED"
    await contree._api._client.aclose()
