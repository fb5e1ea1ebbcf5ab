"""A user's home directory and the published `contree` command typed in it.

    terminal.type("run", "--", "true")      a command that ends; its exit status is wanted
    terminal.start("run", ...)              one that runs while the test goes on
    with terminal.sit_down("shell") as tty  one that talks to a person, through a pseudo-terminal

Each is a process of its own, as the package installed it, with an environment of its own.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONTREE = Path(sys.executable).parent / "contree"
WAIT_S = 300.0
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|[\x01\x02]")
"""Colours, titles, and the marks around them that readline wants."""


class Terminal:
    """One user; `programs` below the home directory is first on the PATH."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.programs = home / "programs"
        self.programs.mkdir()
        self._environment = {
            "PATH": f"{self.programs}:{os.defpath}",
            "HOME": str(home),
            "CONTREE_NO_UPDATE_CHECK": "1",
            "CONTREE_SESSION": "acceptance",
            "TERM": "xterm",
        }

    def log_in(self, url: str, token: str) -> None:
        self.type("auth", "--type", "jwt", "--url", url, "--token", token)

    def program(self, name: str, script: str) -> None:
        """Put a shell script on the user's PATH."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def type(
        self,
        *arguments: str,
        status: int = 0,
        stdin: str | bytes | None = None,
        session: str = "acceptance",
        **environment: str,
    ) -> str:
        """Return stdout of `contree ARGUMENTS`, which must exit with `status`."""
        return self.type_raw(
            *arguments, status=status, stdin=stdin, session=session, **environment
        ).decode()

    def type_raw(
        self,
        *arguments: str,
        status: int = 0,
        stdin: str | bytes | None = None,
        session: str = "acceptance",
        **environment: str,
    ) -> bytes:
        done = subprocess.run(
            [CONTREE, *arguments],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=WAIT_S,
            check=False,
            cwd=self.home,
            env={**self._environment, "CONTREE_SESSION": session, **environment},
        )
        assert done.returncode == status, f"{arguments}: {done.stdout!r}\n{done.stderr.decode()}"
        return done.stdout

    def rows(self, *arguments: str, **options: Any) -> list[dict[str, Any]]:
        """Return what `contree -o json ARGUMENTS` prints, a row for each line."""
        said = self.type("-o", "json", *arguments, **options)
        return [json.loads(line) for line in said.splitlines()]

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run `contree ARGUMENTS` beside the test, its streams as pipes.

        Ctrl-C reaches it also where the tests themselves were started in the background, with
        SIGINT ignored.
        """
        process = subprocess.Popen(
            ["env", "--default-signal=INT", CONTREE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self._environment,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def sit_down(self, *arguments: str) -> Iterator[Screen]:
        """Run `contree ARGUMENTS` as the only program of a pseudo-terminal."""
        pid, master = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.chdir(self.home)
            os.execve(CONTREE, [CONTREE, *arguments], self._environment)
        screen = Screen(pid, master)
        try:
            yield screen
        finally:
            screen.close()


class Screen:
    """What a person sees and types. Colours are left out of what is seen."""

    def __init__(self, pid: int, master: int) -> None:
        self._pid: int | None = pid
        self._master = master
        self._seen = b""

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")

    def press(self, letter: str) -> None:
        """Ctrl and a letter: what the terminal driver makes of it is its own business."""
        os.write(self._master, bytes([ord(letter.upper()) - 64]))

    def wait_for(self, pattern: str) -> str:
        """Return all that came up to the end of `pattern`; the next call goes on behind it."""
        deadline = time.monotonic() + WAIT_S
        wanted = re.compile(pattern.encode())
        while not (found := wanted.search(CONTROL.sub(b"", self._seen))):
            assert select.select([self._master], [], [], deadline - time.monotonic())[0], self._seen
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # how Linux says that nobody has the other side open
                piece = b""
            assert piece, f"ended before {pattern!r}: {self._seen!r}"
            self._seen += piece
        plain = CONTROL.sub(b"", self._seen)
        self._seen = plain[found.end() :]
        return plain[: found.end()].decode()

    def ended(self) -> int:
        """Wait for the program's end; return its exit status."""
        assert self._pid is not None
        while True:
            try:
                if not os.read(self._master, 65536):
                    break
            except OSError:
                break
        _, status = os.waitpid(self._pid, 0)
        self._pid = None
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._master)
