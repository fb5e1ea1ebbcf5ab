"""The embedded server's life: real processes in directories of their own, killed in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from contree.adapters.postgres import embedded
from contree.adapters.postgres.embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    default_runtime_dir,
    running_dsn,
)
from contree.domain.errors import UnavailableError

pytestmark = pytest.mark.postgres

EMBEDDING_PROGRAM = """
import asyncio, sys
from pathlib import Path
from contree.adapters.postgres.embedded import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest_asyncio.fixture(loop_scope="session")
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path)
    await server.start()
    yield server
    await server.stop()


async def query(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def until(condition: object, *, seconds: float = 30) -> None:
    assert callable(condition)
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it did not come to pass")


async def test_it_keeps_its_promises_to_the_data(server: EmbeddedPostgres) -> None:
    for setting, value in {
        "data_checksums": "on",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "server_encoding": "UTF8",
        "listen_addresses": "",
    }.items():
        assert await query(server.dsn, f"SHOW {setting}") == value


async def test_its_files_are_ours_and_its_socket_is_behind_a_private_directory(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    assert (tmp_path / "postgres" / "PG_VERSION").stat().st_uid == os.geteuid()
    assert (tmp_path / "postgres").stat().st_mode & 0o777 == 0o700
    assert default_runtime_dir(tmp_path).stat().st_mode & 0o777 == 0o700


async def test_what_was_committed_is_there_after_a_stop(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    await query(server.dsn, "CREATE TABLE kept AS SELECT 42 AS value")
    await server.stop()
    assert server.pid is None
    assert running_dsn(tmp_path) is None
    await server.start()
    assert await query(server.dsn, "SELECT value FROM kept") == 42


async def test_others_find_a_running_server_by_its_data_directory(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    found = running_dsn(tmp_path)
    assert found == server.dsn
    assert await query(found, "SELECT 1") == 1


async def test_a_second_server_on_the_same_directory_is_refused(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match="another process"):
        await EmbeddedPostgres(tmp_path).start()
    assert await query(server.dsn, "SELECT 1") == 1


async def test_it_starts_again_after_it_was_killed(server: EmbeddedPostgres) -> None:
    await query(server.dsn, "CREATE TABLE kept AS SELECT 42 AS value")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await until(lambda: server.pid is None)
    await server.start()
    assert await query(server.dsn, "SELECT value FROM kept") == 42


async def test_the_supervisor_starts_it_again_by_itself_but_not_after_a_stop(
    server: EmbeddedPostgres,
) -> None:
    supervisor = asyncio.create_task(server.supervise())
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid not in {None, first})
    for _ in range(200):  # its pid is there a little before it answers
        try:
            assert await query(server.dsn, "SELECT 1") == 1
            break
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.05)
    else:
        pytest.fail("it does not answer")
    await server.stop()
    await asyncio.wait_for(supervisor, 30)
    assert server.pid is None


async def test_it_ends_when_its_parent_is_killed_and_another_may_go_on(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EMBEDDING_PROGRAM, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    dsn = running_dsn(tmp_path)
    assert dsn is not None
    await query(dsn, "CREATE TABLE kept AS SELECT 42 AS value")
    parent.kill()
    await parent.wait()
    await until(lambda: running_dsn(tmp_path) is None)
    # Gone, or a zombie that waits for this machine's init.
    await until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not _command_line(pid))
    server = EmbeddedPostgres(tmp_path)
    await server.start()
    try:
        assert await query(server.dsn, "SELECT value FROM kept") == 42
    finally:
        await server.stop()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def test_a_stale_pid_file_of_a_living_process_does_not_count(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    await server.start()
    await server.stop()
    pid_file = tmp_path / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{tmp_path}\n0\n5432\n{tmp_path}\n\n 1 1\nready   \n")
    assert running_dsn(tmp_path) is None
    await server.start()
    assert await query(server.dsn, "SELECT 1") == 1
    await server.stop()


async def test_a_cluster_of_another_major_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedPostgresError, match="made by PostgreSQL 15"):
        await EmbeddedPostgres(tmp_path).start()


async def test_an_initdb_that_was_cut_off_leaves_nothing_that_counts(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(tmp_path)
    await server.start()
    assert await query(server.dsn, "SELECT 1") == 1
    await server.stop()
    assert not (tmp_path / "postgres.new").exists()


async def test_a_directory_too_long_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    assert len(os.fsencode(default_runtime_dir(deep) / embedded.SOCKET_NAME)) <= 107
    assert default_runtime_dir(deep) == default_runtime_dir(deep)
    with pytest.raises(EmbeddedPostgresError, match="runtime_dir"):
        await EmbeddedPostgres(tmp_path, deep).start()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, settings={"max_connections": "none"})
    with pytest.raises(UnavailableError, match="max_connections"):
        await server.start()
    assert server.pid is None
