"""How fast do stdin and stdout pass through the API, beside the bare virtio-serial channel?

In: pieces of 512 KiB, one after the other as the published CLI sends them, into a process that
drops them, from the first piece to its exit. Out: a file of as many bytes as the largest cap keeps,
from the line that sets a process going to the last byte at a follower. The reference does the same
over the socket of a bare QEMU, same agent, same frames.
"""

from __future__ import annotations

import base64
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson

from bench._measure import Report, alternate, progress
from bench._raw_guest import RawSetup, raw_guest_of
from bench._raw_streams import StreamingGuest
from bench._service import Service, service

MIB = 1024**2
IN_BYTES = 32 * MIB
OUT_BYTES = 10 * MIB
PIECE_BYTES = 512 * 1024
CLI_KEEPS_BYTES = 65_536
ROUNDS = 5
CHANNEL = "bare virtio-serial channel"
DROP = "cat >/dev/null"
SPEAK = f"head -c {OUT_BYTES} /dev/zero | tr '\\0' x >/tmp/out; echo ready; read line; cat /tmp/out"
READY = len("ready\n")
SHELL = (b"/bin/sh", b"-c")


def main() -> None:
    report = Report("stdio", __doc__.splitlines()[0])
    with (
        report.running(),
        service() as running,
        tempfile.TemporaryDirectory(prefix="raw-") as directory,
    ):
        image = running.checkpoint()
        with running.restored_setup(image) as setup, _client(running) as ours:
            report.accelerator = setup.accelerator
            bare = _Bare(Path(directory), setup)
            for what, sides in (
                ("standard input", {"ours": lambda: ours.feed(image), "bare": bare.feed}),
                ("standard output", {"ours": lambda: ours.drain(image), "bare": bare.drain}),
            ):
                progress(what)
                samples = alternate(ROUNDS, **sides)
                report.add(what, "MiB/s", samples["ours"], samples["bare"], reference_name=CHANNEL)


class _Client:
    """Does what the published CLI does, over one connection for requests and one for events."""

    def __init__(self, running: Service, http: httpx.Client) -> None:
        self._running = running
        self._http = http

    def feed(self, image: str) -> float:
        """Return MiB/s."""
        with self._started(image, DROP, until="spawn", kept_bytes=CLI_KEEPS_BYTES) as (
            operation,
            events,
        ):
            piece = base64.b64encode(os.urandom(PIECE_BYTES)).decode()
            body = orjson.dumps({"value": piece, "encoding": "base64", "close": False})
            began = time.perf_counter()
            for _ in range(IN_BYTES // PIECE_BYTES):
                self._post(operation, body)
            self._post(operation, b'{"value": ""}')
            while next(events)["type"] != "exit":
                pass
            return IN_BYTES / MIB / (time.perf_counter() - began)

    def drain(self, image: str) -> float:
        """Return MiB/s."""
        with self._started(image, SPEAK, until="stdout", kept_bytes=OUT_BYTES) as (
            operation,
            events,
        ):
            began = time.perf_counter()
            self._post(operation, b'{"value": "\\n"}')
            left = OUT_BYTES - READY
            while left > 0:
                event = next(events)
                if event["type"] == "stdout":
                    left -= len(event["data"]["value"])
            return OUT_BYTES / MIB / (time.perf_counter() - began)

    def _post(self, operation: str, body: bytes) -> None:
        path = f"/operations/{operation}/subprocesses/1/stdin"
        assert self._http.post(path, content=body).status_code == 204

    @contextmanager
    def _started(
        self, image: str, command: str, until: str, kept_bytes: int
    ) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
        """Start a command with an open input; yield it and its events after the first `until`."""
        fields = {"stdin": {"value": "", "close": False}, "truncate_output_at": kept_bytes}
        operation = self._running.api.spawn(image, command, disposable=True, **fields)
        with self._http.stream("GET", f"/operations/{operation}/events?follow=1") as answer:
            lines = answer.iter_lines()
            events = (orjson.loads(line[6:]) for line in lines if line.startswith("data: "))
            while next(events)["type"] != until:
                pass
            yield operation, events
        self._running.api.cancel(operation)
        self._running.api.wait(operation)


@contextmanager
def _client(running: Service) -> Iterator[_Client]:
    with httpx.Client(
        base_url=f"{running.url}/v1", headers=running.authorization, timeout=120
    ) as http:
        yield _Client(running, http)


class _Bare:
    """The same in bare QEMUs, below a directory with a short path."""

    def __init__(self, directory: Path, setup: RawSetup) -> None:
        self._directory = directory
        self._setup = setup

    def feed(self) -> float:
        """Return MiB/s."""
        with self._guest() as guest:
            guest.spawn(*SHELL, DROP.encode(), stdin_open=True)
            return IN_BYTES / MIB / guest.feed_s(IN_BYTES)

    def drain(self) -> float:
        """Return MiB/s."""
        with self._guest() as guest:
            guest.spawn(*SHELL, SPEAK.encode(), stdin_open=True, stdout_cap_bytes=OUT_BYTES)
            guest.await_output(READY)
            return OUT_BYTES / MIB / guest.drain_s(OUT_BYTES - READY)

    @contextmanager
    def _guest(self) -> Iterator[StreamingGuest]:
        with (
            tempfile.TemporaryDirectory(dir=self._directory) as private,
            raw_guest_of(StreamingGuest, Path(private), self._setup) as guest,
        ):
            guest.start()
            yield guest


if __name__ == "__main__":
    main()
