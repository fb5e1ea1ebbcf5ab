"""Built on shell scripts in skopeo's place, which show what it is given and how it is ended."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from contree.adapters.registry.skopeo import SkopeoImageSource
from contree.app.images.image_source import Credentials
from contree.domain.errors import RegistryFailure, StorageFullError, UnavailableError
from contree.programs import SETPRIV, SKOPEO, Program

LOCAL = "docker://127.0.0.1:5000/a/b"
REMOTE = "docker://registry.test/a/b"
CREDENTIALS = Credentials(username="me", password="pässword of me")
RECORD = 'printf "%s\\n" "$@" >{out}/argv; env >{out}/env; cp -p "$HOME/auth.json" {out}/; exit 1'


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    directory.mkdir()
    return directory


def scripted(
    work_dir: Path, out: Path, body: str, *, image_bytes_max: int = 10**9
) -> SkopeoImageSource:
    script = out / "skopeo"
    script.write_text("#!/bin/sh\n" + body.format(out=out))
    script.chmod(0o755)
    return SkopeoImageSource(
        work_dir,
        environment={"PATH": os.environ["PATH"], "SECRET": "s3cret", "NO_PROXY": "x.test"},
        skopeo=Program(name=str(script), package="none", purpose="a script"),
        image_bytes_max=image_bytes_max,
    )


async def pull(
    source: SkopeoImageSource,
    url: str = LOCAL,
    credentials: Credentials | None = None,
    timeout_s: float = 30,
) -> None:
    async with source.pull(url, credentials=credentials, timeout_s=timeout_s):
        pytest.fail("the pull succeeded")


async def test_credentials_are_in_a_private_file_only(work_dir: Path, out: Path) -> None:
    source = scripted(work_dir, out, RECORD)
    with pytest.raises(RegistryFailure) as caught:
        await pull(source, REMOTE, CREDENTIALS)
    argv, env = (out / "argv").read_text(), (out / "env").read_text()
    token = base64.b64encode(b"me:" + CREDENTIALS.password.encode()).decode()
    assert json.loads((out / "auth.json").read_text()) == {
        "auths": {"registry.test": {"auth": token}}
    }
    assert (out / "auth.json").stat().st_mode & 0o777 == 0o600
    for place in (argv, env, str(caught.value)):
        assert CREDENTIALS.password not in place
        assert token not in place
    assert list(work_dir.iterdir()) == []


@pytest.mark.parametrize("credentials", [None, Credentials(username="", password="")])
async def test_without_credentials_the_authfile_is_empty(
    work_dir: Path, out: Path, credentials: Credentials | None
) -> None:
    with pytest.raises(RegistryFailure):
        await pull(scripted(work_dir, out, RECORD), REMOTE, credentials)
    assert json.loads((out / "auth.json").read_text()) == {"auths": {}}


async def test_only_named_variables_reach_the_child(work_dir: Path, out: Path) -> None:
    with pytest.raises(RegistryFailure):
        await pull(scripted(work_dir, out, RECORD))
    names = {line.partition("=")[0] for line in (out / "env").read_text().splitlines()}
    # PWD, _ and the like are the shell's own.
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {
        "PATH",
        "NO_PROXY",
        "HOME",
        "XDG_RUNTIME_DIR",
    }


@pytest.mark.parametrize(("url", "verify"), [(LOCAL, "false"), (REMOTE, "true")])
async def test_plain_http_is_for_loopback_only(
    work_dir: Path, out: Path, url: str, verify: str
) -> None:
    with pytest.raises(RegistryFailure):
        await pull(scripted(work_dir, out, RECORD), url)
    assert f"--src-tls-verify={verify}" in (out / "argv").read_text().splitlines()


async def test_timeout_kills_the_whole_process_group(work_dir: Path, out: Path) -> None:
    source = scripted(work_dir, out, "sleep 600 & echo $! >{out}/grandchild; wait")
    grandchild = out / "grandchild"
    for timeout_s in (0.5, 5, 50):  # until it has come so far before its time is up
        with pytest.raises(RegistryFailure, match="too slow"):
            await pull(source, timeout_s=timeout_s)
        if grandchild.exists() and grandchild.read_text():
            break
    await gone(int(grandchild.read_text()))
    assert list(work_dir.iterdir()) == []


async def test_cancelling_kills_the_whole_process_group(work_dir: Path, out: Path) -> None:
    source = scripted(work_dir, out, "sleep 600 & echo $! >{out}/grandchild; wait")
    task = asyncio.create_task(pull(source))
    grandchild = out / "grandchild"
    while not (grandchild.exists() and grandchild.read_text()):  # noqa: ASYNC110 - a file's
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(int((out / "grandchild").read_text()))
    assert list(work_dir.iterdir()) == []


async def test_cancelling_while_it_starts_kills_the_whole_process_group(
    work_dir: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = scripted(work_dir, out, "sleep 600 & echo $! >{out}/grandchild; wait")
    grandchild, start = out / "grandchild", asyncio.create_subprocess_exec
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def start_slowly(*command: str, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*command, **options)
        while not (grandchild.exists() and grandchild.read_text()):  # noqa: ASYNC110 - a file's
            await asyncio.sleep(0.01)
        running.set()
        await cancelled.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_slowly)
    task = asyncio.create_task(pull(source))
    await running.wait()
    task.cancel()
    await asyncio.sleep(0)
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(int(grandchild.read_text()))
    assert list(work_dir.iterdir()) == []


async def gone(pid: int) -> None:
    """Wait until the process is dead (a zombie counts: reaping orphans is init's business)."""
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except FileNotFoundError:
            return
        if state in "ZX":
            return
        await asyncio.sleep(0.02)


async def test_a_pull_that_grows_without_end_is_stopped(work_dir: Path, out: Path) -> None:
    source = scripted(
        work_dir, out, "while :; do echo more >>image-blob; done", image_bytes_max=1000
    )
    with pytest.raises(RegistryFailure, match="larger than 1000 bytes"):
        await pull(source)
    assert list(work_dir.iterdir()) == []


async def test_a_flood_of_words_is_bounded_and_its_end_counts(work_dir: Path, out: Path) -> None:
    source = scripted(
        work_dir,
        out,
        "head -c 5000000 /dev/zero | tr '\\0' x >&2; echo 'manifest unknown' >&2; exit 1",
    )
    with pytest.raises(RegistryFailure, match="does not have this image"):
        await pull(source)


async def test_a_full_disk_is_named(work_dir: Path, out: Path) -> None:
    source = scripted(work_dir, out, "echo 'write /x: no space left on device' >&2; exit 1")
    with pytest.raises(StorageFullError):
        await pull(source)


async def test_success_without_an_image_is_a_failure(work_dir: Path, out: Path) -> None:
    with pytest.raises(RegistryFailure, match="damaged"):
        await pull(scripted(work_dir, out, "mkdir image; exit 0"))
    assert list(work_dir.iterdir()) == []


async def test_a_missing_program_is_named_and_the_registry_not_blamed(
    work_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError) as missing:
        await pull(SkopeoImageSource(work_dir))
    assert str(missing.value) in {SETPRIV.absence, SKOPEO.absence}


async def test_a_user_name_that_the_protocol_cannot_carry_is_refused(
    work_dir: Path, out: Path
) -> None:
    with pytest.raises(RegistryFailure, match=r"registry\.credentials\.username"):
        await pull(
            scripted(work_dir, out, RECORD), REMOTE, Credentials(username="a:b", password="c")
        )


def test_sweep_removes_what_a_killed_worker_left(work_dir: Path) -> None:
    (work_dir / "pull-abc").mkdir(parents=True)
    (work_dir / "pull-abc" / "auth.json").write_text("{}")
    SkopeoImageSource(work_dir).sweep()
    assert list(work_dir.iterdir()) == []
