"""`contreed serve` as a child process on a throw-away data directory, as an operator runs it.

    server = RunningServer(directory); server.start(); ...; server.stop(); server.remove()

`stop` is Ctrl-C and wants exit status 0; `kill` is SIGKILL to `serve` alone, as a crash would be;
`start` again works on the same data directory. `learn_from` saves a later server the making of
what an earlier one has made. `processes` looks into /proc for whatever still belongs to the data
directory: nothing here trusts the server's own word that it is gone.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contree.adapters.microvm.hypervisor import embedded
from contree.config import Settings

CONTREED = Path(sys.executable).parent / "contreed"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 300.0
GONE_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 300.0
"""Bounds on a hang, none on a speed: a busy machine may take many times what an idle one does."""
ANY_PORT = "127.0.0.1:0"
UMASK = 0o022
A_SHORT_DRAIN = {"CONTREED_DRAIN_TIMEOUT": "5"}
"""A test that stops a server has its runs handed back."""

LIBVIRTS_OWN = {"qemu.conf", "driver.pid"}
"""Its settings and its pid: not of any run, removed at the end."""
POLL_S = 0.05
LOG_TAIL_CHARS = 6000
DRAINING = "may go on for up to"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that belongs to a server. `command` is its argument vector, joined by blanks."""

    pid: int
    command: str

    @property
    def program(self) -> str:
        """The name of what it runs."""
        return Path(self.command.partition(" ")[0]).name


class RunningServer:
    """One server below `directory`; `environment` adds CONTREED_* settings.

    Every command runs behind `prefix`, and with the umask that most systems have.
    """

    prefix: Sequence[str] = ()

    def __init__(
        self,
        directory: Path,
        *,
        data_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.data_dir = data_dir or directory / "data"
        self.log = directory / "serve.log"
        self.url = ""
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CONTREED_")},
            "CONTREED_IMPORT_ALLOW": "127.0.0.0/8",  # where the tests' registries are
            **A_SHORT_DRAIN,
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._tokens: dict[str, str] = {}

    @property
    def runtime_dir(self) -> Path:
        return Settings(data_dir=self.data_dir).runtime_dir

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def worker_pid(self) -> int:
        """Of the worker that `serve` has started. What it forks itself looks like it until exec."""
        [pid] = [
            p.pid
            for p in self.processes()
            if p.command.endswith("-m contree worker") and parent_of(p.pid) == self.pid
        ]
        return pid

    @property
    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def start(self) -> None:
        """Start `serve` on a port that the kernel chooses, and wait until it says that it is ready.

        Raises AssertionError with its log.
        """
        with self.starting() as notices:
            assert self._process is not None
            wait_until_ready(self._process, notices, self._tail)
        self.url = listening_url(self.log_text)
        assert self.is_ready(), f"it says that it is ready, but is not:\n{self._tail()}"

    @contextmanager
    def starting(self) -> Iterator[socket.socket]:
        """Start `serve`; yield what hears when it is ready."""
        with supervisor() as (notices, variables):
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(
                    [
                        *(*self.prefix, CONTREED, "serve"),
                        *("--data-dir", self.data_dir, "--listen", ANY_PORT),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**self._environment, **variables},
                    start_new_session=True,
                    umask=UMASK,
                )
            yield notices

    def learn_from(self, other: RunningServer) -> None:
        """Before the first start: take over what the other's worker found out and made for guests.

        That is, as for a server that starts again, the verdict on KVM (ten seconds where KVM is
        broken) and a template; it is waited for.
        """
        theirs, ours = other.data_dir / "cache", self.data_dir / "cache"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (made := [p for p in theirs.glob("templates/*") if p.suffix != ".partial"]):
            assert time.monotonic() < deadline, f"no template was made:\n{other._tail()}"
            time.sleep(POLL_S)
        for place in (self.data_dir, ours, ours / "templates"):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy(theirs / "accelerator.json", ours)
        copy = ["cp", "--archive", "--sparse=always", *made, ours / "templates"]
        subprocess.run(copy, check=True, timeout=START_TIMEOUT_S)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def ask_to_stop(self) -> None:
        """Send SIGINT, and wait until the worker says that it waits for what runs."""
        assert self._process is not None
        begun = self.log_text.count(DRAINING)
        self._process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.log_text.count(DRAINING) == begun:
            assert time.monotonic() < deadline, self._tail()
            time.sleep(POLL_S)

    def interrupt(self) -> None:
        """Send SIGINT and await the end of `serve`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self.want_stopped()

    def want_stopped(self) -> None:
        """Want exit status 0 and no directory of its run left."""
        assert self._process is not None
        status = self._process.wait(STOP_TIMEOUT_S)
        assert status == 0, f"serve ended with status {status}:\n{self._tail()}"
        assert not self.runtime_dir.exists(), list(self.runtime_dir.rglob("*"))
        self._process = None

    def kill(self) -> None:
        """SIGKILL to the one process that an operator started."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Stop it when it runs, then want nothing left: no process, no file of a run."""
        if self._process is not None:
            try:
                self.interrupt()
            except subprocess.TimeoutExpired:
                self._end_the_hard_way()
                raise AssertionError(f"serve did not stop by itself:\n{self._tail()}") from None
        self.want_no_processes()
        left = self.scratch_files()
        assert not left, f"left behind: {left}"

    def remove(self) -> None:
        """Remove everything, also after a failure."""
        self._end_the_hard_way()
        embedded.forget(self.runtime_dir / "guests" / "libvirt")
        shutil.rmtree(self.runtime_dir, ignore_errors=True)
        shutil.rmtree(self.data_dir, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def want_no_processes(self, *, within_s: float = GONE_TIMEOUT_S) -> None:
        """Wait until no process of ours is left. Raises AssertionError naming those that stay."""
        deadline = time.monotonic() + within_s
        while left := self.processes():
            assert time.monotonic() < deadline, f"still alive: {left}\n{self._tail()}"
            time.sleep(POLL_S)

    def scratch_files(self) -> list[Path]:
        """What only a running server may have: guests' files, half-made layers, pulls, uploads.

        Zero-length lock files do not count.
        """
        places = [
            self.runtime_dir,
            *(self.data_dir / "cache" / "scratch").glob("live-*"),
            self.data_dir / "pulls",
            self.data_dir / "layers" / ".staging",
            self.data_dir / "content" / ".spool",
            self.data_dir / "spool",
        ]
        return [
            path
            for place in places
            for path in sorted(files_below(place))
            if path.name not in LIBVIRTS_OWN and holds_bytes(path)
        ]

    def processes(self) -> list[Process]:
        """Every live process that names our directories or works in them."""
        marks = [os.fsencode(self.data_dir.resolve()), os.fsencode(self.runtime_dir)]
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                if not command:  # a zombie, or a thread of the kernel
                    continue
                traces = [command, (entry / "environ").read_bytes()]
                traces.append(os.fsencode((entry / "cwd").readlink()))
            except OSError:
                continue
            if any(mark in trace for mark in marks for trace in traces):
                text = command.replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(Process(pid=int(entry.name), command=text[:200]))
        return found

    def qemus(self) -> list[Process]:
        return [p for p in self.processes() if p.program.startswith("qemu-system")]

    def contreed(
        self, *arguments: str | Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `contreed ... --data-dir OURS`. Raises AssertionError when `check` and it fails."""
        done = subprocess.run(
            [*self.prefix, CONTREED, *arguments, "--data-dir", self.data_dir],
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            env=self._environment,
            umask=UMASK,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def token(self, project: str, *, permissions: str | None = None) -> str:
        """Return a token of the project, the same one each time it is asked for."""
        key = f"{project}/{permissions}"
        if key not in self._tokens:
            options = ["--permissions", permissions] if permissions is not None else []
            done = self.contreed("token", "create", "--project", project, *options)
            self._tokens[key] = done.stdout.strip()
        return self._tokens[key]

    def dsn(self) -> str:
        return self.contreed("dsn", "--owner").stdout.strip()

    def _tail(self) -> str:
        return self.log_text[-LOG_TAIL_CHARS:] if self.log.exists() else "(no log)"

    def _end_the_hard_way(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                if process.program.startswith("qemu-system"):
                    try:
                        os.kill(process.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
            time.sleep(POLL_S)


def files_below(place: Path) -> set[Path]:
    """Return all that is no directory below `place`, while others make and remove what they like.

    Path.rglob raises when a directory vanishes under it.
    """
    return {Path(top, name) for top, _, names in os.walk(place) for name in names}


def holds_bytes(path: Path) -> bool:
    """Whether it is a regular file with content, now."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def parent_of(pid: int) -> int | None:
    """Return the parent's pid, None when the process is gone; proc(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])


def listening_url(log_text: str) -> str:
    """Return where the process that wrote last into the log says that it listens."""
    return re.findall(r"listening on (http://\S+)", log_text)[-1]


@contextmanager
def supervisor() -> Iterator[tuple[socket.socket, Mapping[str, str]]]:
    """Yield a socket that hears what a child says by sd_notify(3), and the child's environment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind("")  # Linux chooses an abstract address
        name = notices.getsockname().decode().replace("\0", "@", 1)
        yield notices, {"NOTIFY_SOCKET": name}


def wait_until_ready(
    process: subprocess.Popen[bytes], notices: socket.socket, tail: Callable[[], str]
) -> None:
    """Wait for READY=1 of `process`. Raises AssertionError with `tail()` when it ends before."""
    deadline = time.monotonic() + START_TIMEOUT_S
    ended = os.pidfd_open(process.pid)
    try:
        while time.monotonic() < deadline:
            found, _, _ = select.select([notices, ended], [], [], START_TIMEOUT_S)
            if notices in found and b"READY=1" in notices.recv(4096).splitlines():
                return
            assert process.poll() is None, f"it ended by itself:\n{tail()}"
        raise AssertionError(f"it did not become ready:\n{tail()}")
    finally:
        os.close(ended)


@contextmanager
def running_server(
    *,
    data_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
    after: RunningServer | None = None,
) -> Iterator[RunningServer]:
    """Start a server, yield it, stop it and want nothing left; its log is shown on failure.

    It learns from the one that it comes `after`.
    """
    directory = Path(tempfile.mkdtemp(prefix="contree-test-"))
    server = RunningServer(directory, data_dir=data_dir, environment=environment)
    with started(server, after=after):
        yield server


@contextmanager
def started(server: RunningServer, *, after: RunningServer | None = None) -> Iterator[None]:
    """Start `server`, stop it at the end and want nothing left; its log is shown on failure."""
    try:
        if after is not None:
            server.learn_from(after)
        server.start()
        yield
        server.stop()
    except BaseException:
        if server.log.exists():
            sys.stderr.write(f"\nlog of {server.url}:\n{server.log_text[-LOG_TAIL_CHARS:]}\n")
        raise
    finally:
        server.remove()
