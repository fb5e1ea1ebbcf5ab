"""`contreed serve` as a child process on a throw-away directory, for the demo."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from contree.config import Settings

CONTREED = Path(sys.executable).parent / "contreed"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
LOG_TAIL_CHARS = 4000


class ServerNotReadyError(Exception):
    """`contreed serve` ended or did not become ready; holds the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that answers at `url` (no trailing slash) and keeps everything in `data_dir`."""

    url: str
    data_dir: Path
    log: Path

    def create_token(self, project: str) -> str:
        """Return a new token with every permission."""
        return subprocess.run(
            [CONTREED, "token", "create", "--data-dir", self.data_dir, "--project", project],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()

    def check_projections(self) -> str:
        """Compare the read models with the log; return what `contreed` says about it.

        Raises subprocess.CalledProcessError when they differ.
        """
        return subprocess.run(
            [CONTREED, "projections", "rebuild", "--check", "--data-dir", self.data_dir],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()


@contextmanager
def running_server(progress: Callable[[str], None]) -> Iterator[RunningServer]:
    """Start the server, yield it when it is ready, stop it and remove its directory.

    Raises ServerNotReadyError.
    """
    directory = Path(tempfile.mkdtemp(prefix="contree-demo-"))
    log, data_dir = directory / "serve.log", directory / "data"
    process: subprocess.Popen[bytes] | None = None
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches the demo alone, which then stops the server.
            process = subprocess.Popen(
                [CONTREED, "serve", "--data-dir", data_dir, "--listen", address],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "CONTREED_IMPORT_ALLOW": "127.0.0.0/8",  # the demo's registry
                    # Who interrupts the story does not want to wait for what it runs.
                    "CONTREED_DRAIN_TIMEOUT": "0",
                },
            )
        url = f"http://{address}"
        _wait_until_ready(process, url, log, progress)
        yield RunningServer(url=url, data_dir=data_dir, log=log)
    finally:
        with _undisturbed():
            if process is not None:
                _stop(process)
            # Its sockets lie elsewhere, because their paths must be short.
            shutil.rmtree(Settings(data_dir=data_dir).runtime_dir, ignore_errors=True)
            shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(
    process: subprocess.Popen[bytes], url: str, log: Path, progress: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    shown = 0
    while process.poll() is None and time.monotonic() < deadline:
        lines = log.read_text(errors="replace").splitlines()
        for line in lines[shown:]:
            if " INFO " in line or " WARNING " in line:
                progress(line)
        shown = len(lines)
        if _is_ready(url):
            return
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-LOG_TAIL_CHARS:]
    raise ServerNotReadyError(f"contreed serve did not become ready:\n{tail}")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second Ctrl-C stop the stopping."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        sys.stderr.write("demo: the server did not stop by itself, killing it\n")
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
