"""A MicroVM in memory: guests whose programs are coroutines, for use cases and the contract suite.

`FakeMicroVM(programs=...)` adds to a few that behave as their namesakes: echo, cat, false, sleep,
touch, yes. Nothing is isolated, nothing is stacked: a guest sees only what was put or touched.
"""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from signal import SIGKILL
from uuid import UUID

from contree.app.guest.microvm import (
    Exited,
    FileKind,
    GuestFile,
    GuestInfo,
    GuestSpec,
    Output,
    ProcessEvent,
    ProcessSpec,
    SpawnRefused,
    Stream,
    Truncated,
)
from contree.domain.errors import GuestFailure, LayerRefused, NotFoundError, OperationFailure

STDIN_WINDOW_CHUNKS = 4
GUEST_BYTES = 32 * 1024**2


@dataclass(slots=True)
class FakeFile:
    content: bytes
    uid: int = 0
    gid: int = 0
    mode: int = 0o644


@dataclass(slots=True)
class FakeProcess:
    """What a program sees. `write` is its standard output."""

    spid: int
    spec: ProcessSpec
    guest: FakeGuest
    stdin: asyncio.Queue[bytes] = field(
        default_factory=lambda: asyncio.Queue(maxsize=STDIN_WINDOW_CHUNKS)
    )
    stdin_open: bool = False
    emitted: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    dropped: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    killed_by: int = -1
    oom_killed: bool = False
    task: asyncio.Task[None] | None = None

    def write(self, data: bytes, stream: Stream = Stream.STDOUT) -> None:
        kept = data[: self.spec.output_bytes_max - self.emitted[stream]]
        self.emitted[stream] += len(kept)
        self.dropped[stream] += len(data) - len(kept)
        if kept:
            self.guest.emit(Output(spid=self.spid, stream=stream, data=kept))

    async def read(self) -> bytes:
        """Return the next piece of standard input, empty at its end."""
        return await self.stdin.get() if self.spec.stdin_open else b""

    def kill(self, number: int) -> None:
        self.killed_by = number
        if self.task is not None:
            self.task.cancel()


Program = Callable[[FakeProcess], Awaitable[int]]


async def _echo(process: FakeProcess) -> int:
    process.write((" ".join(process.spec.argv[1:]) + "\n").encode())
    return 0


async def _cat(process: FakeProcess) -> int:
    while data := await process.read():
        process.write(data)
    return 0


async def _false(_: FakeProcess) -> int:
    return 1


async def _sleep(process: FakeProcess) -> int:
    await asyncio.sleep(float(process.spec.argv[1]))
    return 0


async def _touch(process: FakeProcess) -> int:
    for path in process.spec.argv[1:]:
        process.guest.files.setdefault(path, FakeFile(b""))
    return 0


async def _yes(process: FakeProcess) -> int:
    while True:
        process.write(b"y\n" * 512)
        await asyncio.sleep(0)


PROGRAMS: Mapping[str, Program] = {
    "echo": _echo, "cat": _cat, "false": _false, "sleep": _sleep, "touch": _touch, "yes": _yes,
}  # fmt: skip


class FakeGuest:
    def __init__(self, spec: GuestSpec, programs: Mapping[str, Program]) -> None:
        self.spec = spec
        self.info = GuestInfo(
            accelerator="fake",
            kernel="0.0.0-fake",
            machine="x86_64",
            boot_id=UUID(int=spec.run_id.int ^ 1),
            init_pid=1,
            started_at=datetime.now(UTC),
        )
        self.files: dict[str, FakeFile] = {}
        self.placed: list[GuestFile] = []
        self.lost: GuestFailure | None = None
        self._programs = programs
        self._processes: dict[int, FakeProcess] = {}
        self._events: asyncio.Queue[ProcessEvent | None] = asyncio.Queue()

    def emit(self, event: ProcessEvent) -> None:
        self._events.put_nowait(event)

    def lose(self, reason: str) -> None:
        """Behave as a guest whose QEMU was killed."""
        self.lost = GuestFailure(f"the guest was lost: {reason}", retryable=True)
        self._events.put_nowait(None)

    def close(self) -> None:
        self.lost = self.lost or GuestFailure("the guest was closed")
        for process in self._processes.values():
            process.kill(SIGKILL)
        self._events.put_nowait(None)

    async def put_files(self, items: AsyncIterator[GuestFile | bytes]) -> None:
        self._check()
        file, data = None, b""
        async for item in items:
            if isinstance(item, bytes):
                data += item
            else:
                self._put(file, data)
                file, data = item, b""
        self._put(file, data)

    def _put(self, file: GuestFile | None, data: bytes) -> None:
        if file is None:
            return
        path = os.fsdecode(file.path)
        if len(data) != file.size_bytes:
            raise OperationFailure(f"{file.name}: content is not of its {file.size_bytes} bytes")
        self.placed.append(file)
        if file.kind is FileKind.DIRECTORY:
            return
        if path in ("/bin", "/etc") or any(name.startswith(f"{path}/") for name in self.files):
            raise OperationFailure(f"{file.name}: a directory stands there")
        self.files[path] = FakeFile(data, file.uid, file.gid, file.mode)

    async def spawn(self, spid: int, spec: ProcessSpec) -> int:
        self._check()
        program = self._programs.get(spec.argv[0].rsplit("/", 1)[-1])
        if program is None:
            raise SpawnRefused(exit_code=127, reason=f"{spec.argv[0]}: No such file or directory")
        process = FakeProcess(spid, spec, self, stdin_open=spec.stdin_open)
        self._processes[spid] = process
        process.task = asyncio.create_task(self._run(process, program))
        await asyncio.sleep(0)  # a task that is cancelled before it begins would never report
        return 100 + spid

    async def _run(self, process: FakeProcess, program: Program) -> None:
        began = time.monotonic()
        code, timed_out = -1, False
        try:
            async with asyncio.timeout(process.spec.timeout_ms / 1000 or None):
                code = await program(process)
        except TimeoutError:
            timed_out, process.killed_by = True, SIGKILL
        except asyncio.CancelledError:
            pass  # killed_by says with what
        for stream in Stream:
            if process.dropped[stream]:
                self.emit(
                    Truncated(
                        spid=process.spid,
                        stream=stream,
                        emitted_bytes=process.emitted[stream],
                        dropped_bytes=process.dropped[stream],
                    )
                )
        process.stdin_open = False
        self._processes.pop(process.spid, None)
        self.emit(
            Exited(
                spid=process.spid,
                pid=100 + process.spid,
                exit_code=code,
                signal=process.killed_by,
                core_dumped=False,
                timed_out=timed_out,
                oom_killed=process.oom_killed,
                duration_us=int((time.monotonic() - began) * 1e6),
            )
        )

    async def events(self) -> AsyncIterator[ProcessEvent]:
        while (event := await self._events.get()) is not None:
            yield event
        if self.lost is not None and "closed" not in str(self.lost):
            raise self.lost

    async def write_stdin(self, spid: int, data: bytes) -> None:
        process = self._live(spid)
        if not process.stdin_open:
            raise NotFoundError("standard input of process", spid)
        await process.stdin.put(data)

    async def close_stdin(self, spid: int) -> None:
        process = self._live(spid)
        if process.stdin_open:
            process.stdin_open = False
            await process.stdin.put(b"")

    async def signal(self, spid: int, number: int) -> None:
        self._live(spid).kill(number)

    async def capture(self, *, bytes_max: int) -> AsyncIterator[bytes]:
        self._check()
        running = [p for p in self._processes.values() if p.task is not None]
        for process in running:
            process.kill(SIGKILL)
        await asyncio.gather(*(p.task for p in running if p.task is not None))
        tar = self._tar()
        if len(tar) > bytes_max:
            raise LayerRefused(f"what the command wrote is more than {bytes_max} bytes")
        yield tar

    def _tar(self) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            root = tarfile.TarInfo("./")
            root.type, root.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(root)
            for path, file in sorted(self.files.items()):
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode = len(file.content), file.mode
                entry.uid, entry.gid = file.uid, file.gid
                tar.addfile(entry, io.BytesIO(file.content))
            end = tar.offset + 2 * tarfile.BLOCKSIZE  # the real one has no padding after it
        return out.getvalue()[:end]

    def _check(self) -> None:
        if self.lost is not None:
            raise self.lost

    def _live(self, spid: int) -> FakeProcess:
        self._check()
        process = self._processes.get(spid)
        if process is None:
            raise NotFoundError("live process", spid)
        return process


class FakeMicroVM:
    """`started` are the specs of all guests, `running` those not yet left.

    `waiting` is what was last said of guests that wait (none ever do): how many, and to fill.
    """

    def __init__(self, programs: Mapping[str, Program] | None = None) -> None:
        self.started: list[GuestSpec] = []
        self.running: list[FakeGuest] = []
        self.left_behind = 0
        self.waiting: tuple[int, bool] | None = None
        self._programs = {**PROGRAMS, **(programs or {})}

    @asynccontextmanager
    async def start(self, spec: GuestSpec) -> AsyncIterator[FakeGuest]:
        guest = FakeGuest(spec, self._programs)
        self.started.append(spec)
        self.running.append(guest)
        try:
            yield guest
        finally:
            guest.close()
            self.running.remove(guest)

    def memory_bytes(self) -> int:
        return GUEST_BYTES * len(self.running)

    def keep_waiting(self, count: int, *, fill: bool) -> None:
        self.waiting = (count, fill)

    async def sweep(self) -> int:
        left, self.left_behind = self.left_behind, 0
        return left
