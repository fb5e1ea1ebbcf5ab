"""A host's side of the guest protocol over plain sockets, for tests that drive a real agent."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.frames import FrameDecoder
from contree.adapters.microvm.agent.messages import (
    Captured,
    Exited,
    GuestError,
    GuestFrame,
    Output,
    Ready,
    Spawned,
    SpawnFailed,
    Stream,
)

PATIENCE_S = 120.0  # how long a frame may take before the test fails

Frame = TypeVar("Frame", bound=GuestFrame)


class Session:
    """Sends commands, keeps every frame received, collects the data port in a thread."""

    def __init__(self, control: socket.socket, data: socket.socket) -> None:
        self.control = control
        self.data = data
        self.frames: list[GuestFrame] = []
        self._taken = 0
        self._decoder = FrameDecoder()
        self._tar = bytearray()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for end in (self.control, self.data):
            with suppress(OSError):  # the agent may have gone first
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._reader.join(PATIENCE_S)

    def _collect(self) -> None:
        while True:
            try:
                chunk = self.data.recv(1 << 20)
            except OSError:
                return
            if not chunk:
                return
            self._tar += chunk

    def send(self, *frames: bytes) -> None:
        self.control.sendall(b"".join(frames))

    def expect(self, kind: type[Frame], wanted: Callable[[Frame], bool] = lambda _: True) -> Frame:
        """Return the next frame of this kind that is wanted; others stay in `frames`."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            while self._taken < len(self.frames):
                frame = self.frames[self._taken]
                self._taken += 1
                if isinstance(frame, kind) and wanted(frame):
                    return frame
                if isinstance(frame, GuestError) and kind is not GuestError:
                    raise AssertionError(f"waiting for {kind.__name__}: {frame}")
            self._receive(deadline, kind.__name__)

    def _receive(self, deadline: float, what: str) -> None:
        self.control.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            data = self.control.recv(1 << 20)
        except TimeoutError:
            raise AssertionError(f"no {what} came; last: {self.frames[-5:]}") from None
        if not data:
            raise AssertionError(f"agent hung up while {what} was awaited: {self.frames[-5:]}")
        self.frames += self._decoder.feed(data)

    def hello(self) -> Ready:
        self.send(commands.hello())
        return self.expect(Ready)

    def spawn(self, spid: int, *argv: str | bytes, **changes: object) -> None:
        self.send(commands.spawn(spawn_request(spid, *argv, **changes)))

    def run(self, spid: int, *argv: str | bytes, **changes: object) -> Exited:
        """Spawn, and return the exit once it came."""
        self.spawn(spid, *argv, **changes)
        self.expect(Spawned, lambda frame: frame.spid == spid)
        return self.expect(Exited, lambda frame: frame.spid == spid)

    def refused(self, spid: int, *argv: str | bytes, **changes: object) -> SpawnFailed:
        self.spawn(spid, *argv, **changes)
        return self.expect(SpawnFailed, lambda frame: frame.spid == spid)

    def output(self, spid: int, stream: Stream = Stream.STDOUT) -> bytes:
        return b"".join(
            frame.data
            for frame in self.frames
            if isinstance(frame, Output) and frame.spid == spid and frame.stream is stream
        )

    def shell(self, spid: int, script: str, **changes: object) -> bytes:
        """Run a shell script that must succeed; return its standard output."""
        exited = self.run(spid, "/bin/sh", "-c", script, **changes)
        errors = self.output(spid, Stream.STDERR)
        assert exited.code == 0, (exited, errors)
        return self.output(spid)

    def capture(self, max_bytes: int = 1 << 33) -> bytes:
        """Return the captured tar, whole."""
        start = len(self._tar)
        self.send(commands.capture(max_bytes))
        captured = self.expect(Captured)
        deadline = time.monotonic() + PATIENCE_S
        while len(self._tar) - start < captured.size_bytes and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(self._tar) - start == captured.size_bytes
        return bytes(self._tar[start:])


def spawn_request(spid: int, *argv: str | bytes, **changes: object) -> commands.Spawn:
    """A root process in / with an ordinary environment, but for `changes`."""
    fields: dict[str, object] = {
        "spid": spid,
        "uid": 0,
        "gid": 0,
        "stdin_open": False,
        "timeout_ms": 0,
        "stdout_cap_bytes": 1 << 20,
        "stderr_cap_bytes": 1 << 20,
        "cwd": b"/",
        "argv": [word.encode() if isinstance(word, str) else word for word in argv],
        "env": [b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    }
    fields.update(changes)
    return commands.Spawn(**fields)


def connect(path: str) -> socket.socket:
    """Connect to a Unix socket that QEMU is about to make."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        end = socket.socket(socket.AF_UNIX)
        try:
            end.connect(path)
        except OSError:
            end.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return end
