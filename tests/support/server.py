"""`contreed serve` as a child process on a throw-away data directory, as an operator runs it.

    server = RunningServer(directory); server.start(); ...; server.stop(); server.remove()

`stop` is Ctrl-C and wants exit status 0; `kill` is SIGKILL to `serve` alone, as a crash would be;
`start` again works on the same data directory. `processes` looks into /proc for whatever still
belongs to the data directory: nothing here trusts the server's own word that it is gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contree.adapters.microvm import embedded
from contree.config import Settings

CONTREED = Path(sys.executable).parent / "contreed"
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
GONE_TIMEOUT_S = 20.0
LIBVIRTS_OWN = {"qemu.conf", "driver.pid"}
"""Its settings and its pid: not of any run, written over at each start."""
POLL_S = 0.05
LOG_TAIL_CHARS = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that belongs to a server. `command` is its argument vector, joined by blanks."""

    pid: int
    command: str


class RunningServer:
    """One server below `directory`; `environment` adds CONTREED_* settings."""

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
    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def start(self) -> None:
        """Start `serve` on a free port and wait for /readyz. Raises AssertionError with its log."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [CONTREED, "serve", "--data-dir", self.data_dir, "--listen", address],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self.url = f"http://{address}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready():
            assert self._process.poll() is None, f"serve ended by itself:\n{self._tail()}"
            assert time.monotonic() < deadline, f"serve did not become ready:\n{self._tail()}"
            time.sleep(POLL_S)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def interrupt(self) -> float:
        """Send SIGINT, want exit status 0, return how long it took (seconds)."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        status = self._process.wait(STOP_TIMEOUT_S)
        assert status == 0, f"serve ended with status {status}:\n{self._tail()}"
        self._process = None
        return time.monotonic() - began

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
        ]
        found = [path for place in places for path in sorted(place.rglob("*"))]
        return [
            path
            for path in found
            if path.is_file() and path.stat().st_size > 0 and path.name not in LIBVIRTS_OWN
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
        return [p for p in self.processes() if p.command.startswith("/usr/bin/qemu-system")]

    def contreed(
        self, *arguments: str | Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `contreed ... --data-dir OURS`. Raises AssertionError when `check` and it fails."""
        done = subprocess.run(
            [CONTREED, *arguments, "--data-dir", self.data_dir],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env=self._environment,
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
                if process.command.startswith(("/usr/bin/qemu-system", "skopeo", "sqfstar")):
                    try:
                        os.kill(process.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
            time.sleep(POLL_S)


@contextmanager
def running_server(
    *, data_dir: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """Start a server, yield it, stop it and want nothing left; its log is shown on failure."""
    directory = Path(tempfile.mkdtemp(prefix="contree-test-"))
    server = RunningServer(directory, data_dir=data_dir, environment=environment)
    try:
        server.start()
        yield server
        server.stop()
    except BaseException:
        if server.log.exists():
            sys.stderr.write(f"\nlog of {server.url}:\n{server.log_text[-LOG_TAIL_CHARS:]}\n")
        raise
    finally:
        server.remove()
