"""The published contree-sdk, unmodified, sync and async, with real guests and a real registry."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from contree_sdk import Contree, ContreeSync
from contree_sdk.auth import IAMAuth, JWTAuth
from contree_sdk.config import ContreeConfig
from contree_sdk.sdk.exceptions import (
    ApiStatusCodeError,
    DisposableImageRunError,
    FailedOperationError,
    ForbiddenError,
    NotFoundError,
    UnprocessableEntityError,
)
from contree_sdk.sdk.objects.image import ContreeImageSync
from contree_sdk.utils.models.file import UploadFileSpec
from contree_sdk.utils.models.image import ImageKind

from tests.acceptance.api import Api
from tests.support.server import RunningServer

POLL_SECS_MAX = 0.2
"""The SDK's own 10 s would only make the tests slow."""


def config_of(server: RunningServer, token: str) -> ContreeConfig:
    return ContreeConfig(
        auth=JWTAuth(token=token, base_url=server.url), operation_poll_secs_max=POLL_SECS_MAX
    )


@pytest.fixture(scope="module")
def contree(server: RunningServer, token: str) -> ContreeSync:
    return ContreeSync(config_of(server, token))


@pytest.fixture(scope="module")
def base(contree: ContreeSync, busybox_url: str) -> ContreeImageSync:
    """Busybox, imported by the SDK itself."""
    return contree.images.import_from(busybox_url, tag="busybox:latest")


@pytest.fixture(scope="module")
def checkpoint(base: ContreeImageSync) -> ContreeImageSync:
    """An image with two files of ours."""
    return base.run(
        shell="mkdir /work && echo one >/work/a && echo two >/work/b && ln -s a /work/link",
        disposable=False,
    ).wait()


@pytest.fixture
def no_permissions(server: RunningServer, project: str) -> ContreeSync:
    """A client that may look, and nothing else."""
    return ContreeSync(config_of(server, server.token(project, permissions="list")))


def operation_count(api: Api) -> int:
    return len(api.get("/operations", limit=1000))


def test_oci_imports_by_url_then_finds_the_tag_it_made(
    contree: ContreeSync, base: ContreeImageSync, busybox_url: str, api: Api
) -> None:
    image = contree.images.oci(busybox_url)
    assert image.uuid == base.uuid
    before = operation_count(api)
    again = contree.images.oci(busybox_url)
    assert (again.uuid, operation_count(api)) == (base.uuid, before)


def test_a_shell_run_and_a_direct_run_by_tag(contree: ContreeSync, base: ContreeImageSync) -> None:
    image = contree.images.use("busybox:latest")
    ran = image.run(shell="echo out; echo err >&2; pwd; exit 3").wait()
    assert (ran.stdout, ran.stderr, ran.exit_code) == ("out\n/\n", "err\n", 3)
    assert ran.elapsed > timedelta()
    direct = image.run("printf", args=["%s|", "a b", "$HOME", "ü"]).wait()
    assert (direct.stdout, direct.exit_code) == ("a b|$HOME|ü|", 0)


def test_stdin_env_cwd_and_hostname_reach_the_command(base: ContreeImageSync) -> None:
    ran = base.run(
        shell="cat; echo $COLOUR; pwd; hostname",
        stdin="grüße\n",
        env={"COLOUR": "blue"},
        cwd="/new/place",
        hostname="box",
    ).wait()
    assert ran.stdout == "grüße\nblue\n/new/place\nbox\n"
    raw = base.run("sha256sum", stdin=bytes(range(256)), stdout=bytes).wait()
    assert raw.stdout.startswith(
        b"40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880"
    )


def test_branches_do_not_see_each_other_and_an_older_image_is_as_it_was(
    checkpoint: ContreeImageSync,
) -> None:
    left = checkpoint.run(shell="echo left >>/work/a", disposable=False).wait()
    right = checkpoint.run(shell="rm /work/b", disposable=False).wait()
    assert len({checkpoint.uuid, left.uuid, right.uuid}) == 3
    assert left.read("/work/a") == b"one\nleft\n"
    assert right.read("/work/a") == b"one\n"
    assert {entry.name for entry in right.ls("/work")} == {"a", "link"}
    # Rollback is the use of an older image.
    back = checkpoint.run(shell="cat /work/a /work/b").wait()
    assert back.stdout == "one\ntwo\n"


def test_a_session_moves_on_with_each_run(checkpoint: ContreeImageSync) -> None:
    session = checkpoint.session()
    session.run(shell="echo 1 >>/work/log", disposable=False).wait()
    first = session.uuid
    session.run(shell="echo 2 >>/work/log; exit 7", disposable=False).wait()
    assert session.exit_code == 7
    assert session.read("/work/log") == b"1\n2\n"
    assert len({checkpoint.uuid, first, session.uuid}) == 3
    session.run("true", disposable=False).wait()
    assert session.read("/work/log") == b"1\n2\n"


def test_popen_looks_like_subprocess(base: ContreeImageSync) -> None:
    process = base.session().popen(["sh", "-c", "cat; exit 4"], input="fed", text=True)
    out, err = process.communicate()
    assert (out, err, process.returncode) == ("fed", "", 4)


def test_a_disposable_run_leaves_no_image(checkpoint: ContreeImageSync) -> None:
    ran = checkpoint.run(shell="echo gone >/work/a").wait()
    assert (ran.uuid, ran.exit_code) == (None, 0)
    with pytest.raises(DisposableImageRunError):
        ran.run(shell="true")
    assert checkpoint.read("/work/a") == b"one\n"


def test_a_run_that_changes_nothing_keeps_the_image(checkpoint: ContreeImageSync) -> None:
    assert checkpoint.run(shell="cat /work/a", disposable=False).wait().uuid == checkpoint.uuid


def test_uploads_arrive_with_mode_and_owner(checkpoint: ContreeImageSync, tmp_path: Path) -> None:
    script = tmp_path / "hello.sh"
    script.write_text("#!/bin/sh\necho hello from a file\n")
    (tmp_path / "empty").write_bytes(b"")
    ran = checkpoint.run(
        shell="/opt/hello.sh && stat -c '%n %a %u:%g %s' /opt/* /work/a && cat /work/a",
        files={
            "/opt/hello.sh": UploadFileSpec(source=script, mode=0o755),
            "/opt/empty": tmp_path / "empty",
            "/opt/owned": UploadFileSpec(source=b"\0\xff", uid=1000, gid=2000, mode=0o4640),
            "/work/a": b"replaced\n",
        },
        disposable=False,
    ).wait()
    assert ran.stdout.splitlines() == [
        "hello from a file",
        "/opt/empty 644 0:0 0",
        "/opt/hello.sh 755 0:0 33",
        "/opt/owned 4640 1000:2000 2",
        "/work/a 644 0:0 9",
        "replaced",
    ]
    assert ran.read("/opt/owned") == b"\0\xff"


def test_apply_files_makes_an_image_without_a_command_of_ours(base: ContreeImageSync) -> None:
    image = base.apply_files(files={"/etc/motd": b"welcome\n"})
    assert image.read("/etc/motd") == b"welcome\n"


def test_a_timeout_is_an_outcome_and_its_image_is_kept(base: ContreeImageSync) -> None:
    prepared = base.run(shell="echo before >/kept; sleep 600", timeout=4, disposable=False)
    result = _wait_longer(prepared)
    assert (result.exit_code, result.result._raw.result.state.timed_out) == (-1, True)
    assert result.read("/kept") == b"before\n"


def _wait_longer(prepared: ContreeImageSync) -> ContreeImageSync:
    """Run what was prepared; wait for the server's own timeout, where the SDK would cancel first.

    The SDK takes one number for both, and the guest's boot counts against its share only.
    """
    client = prepared._client
    patient = client._wait_operation

    async def wait(operation_uuid: UUID, result_type: type, timeout: float | None = None) -> object:
        return await patient(operation_uuid, result_type, timeout=(timeout or 0) + 600)

    client._wait_operation = wait
    try:
        return prepared.wait()
    finally:
        del client._wait_operation


def test_output_over_the_cap_is_cut_and_says_so(base: ContreeImageSync) -> None:
    ran = base.run(shell="yes é | head -c 90000; echo short >&2", truncate_output_at=1001).wait()
    assert ran.result.truncated
    # The cap falls into the middle of a character, which is left out whole.
    assert ran.stdout.encode() == ("é\n" * 400).encode()[: len(ran.stdout.encode())]
    assert 998 <= len(ran.stdout.encode()) <= 1001
    assert ran.stderr == "short\n"


def test_tags_move_and_go(contree: ContreeSync, checkpoint: ContreeImageSync) -> None:
    tagged = checkpoint.tag_as("team/app:v1.0")
    assert contree.images.use("team/app:v1.0", strict=True).uuid == checkpoint.uuid
    other = checkpoint.run(shell="echo x >/x", disposable=False, tag="team/app:v1.0").wait()
    assert contree.images.use("team/app:v1.0", strict=True).uuid == other.uuid
    assert contree.images.use(checkpoint.uuid, strict=True).tag is None
    assert tagged.untag().tag is None
    other.untag()
    with pytest.raises(NotFoundError):
        contree.images.use("team/app:v1.0", strict=True)


def test_listing_filters(contree: ContreeSync, base: ContreeImageSync, api: Api) -> None:
    image = base.run(shell="echo listed >/l", disposable=False, tag="listed:1").wait()
    everything = contree.images(number=None)
    assert {base.uuid, image.uuid} <= {entry.uuid for entry in everything}
    tagged = contree.images(tagged=True)
    assert {"busybox:latest", "listed:1"} <= {entry.tag for entry in tagged}
    assert all(entry.tag for entry in tagged)
    recent = contree.images(since=timedelta(minutes=30))
    assert image.uuid in {entry.uuid for entry in recent}
    assert contree.images(since=timedelta(seconds=0)) == []
    assert image.uuid not in {e.uuid for e in contree.images(until=timedelta(minutes=30))}
    assert len(contree.images(number=1)) == 1
    assert contree.images(kind=ImageKind.IMPORTED)


def test_files_are_listed_read_and_downloaded_without_a_guest(
    checkpoint: ContreeImageSync, api: Api, tmp_path: Path
) -> None:
    before = operation_count(api)
    entries = {entry.name: entry for entry in checkpoint.ls("/work")}
    assert entries["a"].size == 4
    assert (entries["a"].owner, entries["a"].is_file) == ("root", True)
    assert entries["link"].symlink_to == "a"
    (work,) = [entry for entry in checkpoint.ls() if entry.name == "work"]
    assert work.is_dir
    assert [entry.name for entry in work.ls()] == ["a", "b", "link"]
    assert entries["a"].read() == checkpoint.read("/work/link") == b"one\n"
    assert checkpoint.download("/work/b", tmp_path / "b").read_bytes() == b"two\n"
    with pytest.raises(NotFoundError):
        checkpoint.read("/work/missing")
    with pytest.raises(UnprocessableEntityError):
        checkpoint.read("/work")
    assert operation_count(api) == before


def test_a_command_that_cannot_be_started_fails_with_the_reason(base: ContreeImageSync) -> None:
    with pytest.raises(FailedOperationError, match="no-such-program"):
        base.run("no-such-program").wait()


def test_errors_name_what_is_wrong(
    contree: ContreeSync, base: ContreeImageSync, no_permissions: ContreeSync
) -> None:
    with pytest.raises(NotFoundError):
        contree.images.use("no/such:tag", strict=True)
    with pytest.raises(NotFoundError):
        contree.images.use("no/such:tag").run(shell="true").wait()
    assert base.uuid is not None
    with pytest.raises(NotFoundError):
        contree.images.use(uuid5(base.uuid, "absent")).run(shell="true").wait()
    with pytest.raises(ApiStatusCodeError, match="cwd"):
        base.run(shell="true", cwd="relative").wait()
    with pytest.raises(ApiStatusCodeError, match="timeout"):
        base.run(shell="true", timeout=10**6).wait()
    with pytest.raises(ApiStatusCodeError, match="tag"):
        base.tag_as("not a tag")
    with pytest.raises(ForbiddenError):
        no_permissions.images.use(base.uuid).run(shell="true", disposable=False).wait()


def test_a_wrong_token_or_project_is_refused(server: RunningServer, token: str) -> None:
    with pytest.raises(ApiStatusCodeError) as refused:
        ContreeSync(config_of(server, "wrong")).images()
    assert refused.value.status == 401
    iam = IAMAuth(token=token, project_id="somebody-elses", base_url=server.url)
    with pytest.raises(ApiStatusCodeError) as refused:
        ContreeSync(ContreeConfig(auth=iam)).images()
    assert refused.value.status == 401
    named = IAMAuth(token=token, project_id="sdk", base_url=server.url)
    assert ContreeSync(ContreeConfig(auth=named)).images() is not None


async def test_the_async_client_goes_the_same_way(
    server: RunningServer, token: str, busybox_url: str, base: ContreeImageSync
) -> None:
    contree = Contree(config_of(server, token))
    image = await contree.images.oci(busybox_url)
    assert image.uuid == base.uuid
    session = image.session()
    await session.run(shell="echo async >/a", disposable=False)
    branches = [await session.run(shell="cat /a"), await image.run(shell="cat /a 2>&1")]
    assert [branch.exit_code for branch in branches] == [0, 1]
    changed = await image.run("sh", args=["-c", "base64 >/b"], stdin=b"\1\2", disposable=False)
    assert base64.b64decode(await changed.read("/b")) == b"\1\2"
    assert "b" in {entry.name for entry in await changed.ls("/")}
    tagged = await changed.tag_as("async:1")
    assert (await contree.images.use("async:1", strict=True)).uuid == tagged.uuid
    assert [i.uuid async for i in contree.images._iter(tagged=True) if i.tag == "async:1"]
    await contree._api._client.aclose()
