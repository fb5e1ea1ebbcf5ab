"""A microVM as the run use case sees it: one guest, from start to the tar of what it wrote.

Implemented by adapters.microvm; tests/contracts/test_microvm.py holds the fake and the real one to
this text. Wire format: docs/guest-protocol.md. A command that fails is data (`Exited`); a guest
that does not do its part is GuestFailure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum, auto
from typing import Protocol
from uuid import UUID

from contree.app.images.layer_store import MountPlan
from contree.domain.outcome import ResourceUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """What a guest is made of.

    run_id           unique per attempt; names the libvirt domain and every scratch file
    max_layer_bytes  bound on what may be written: sizes the scratch disk
    """

    run_id: UUID
    mounts: MountPlan
    hostname: str
    max_layer_bytes: int


class Origin(StrEnum):
    """How a guest came to be.

    COLD      it booted
    TEMPLATE  restored for this run from a booted one's saved state
    WARM      likewise, but before this run was known
    """

    COLD = "cold"
    TEMPLATE = "template"
    WARM = "warm"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestInfo:
    """What a guest that is ready says of itself, and how it was started."""

    accelerator: str
    kernel: str
    machine: str
    boot_id: UUID
    init_pid: int
    started_at: datetime
    origin: Origin = Origin.COLD


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to start. `stdin_open` keeps standard input for `write_stdin`.

    home              where `env` has no HOME, it is that of uid's entry in the guest's passwd, or /
    timeout_ms        0 for none; the process group is killed then
    secret_env        names in `env` whose values nobody is shown
    output_bytes_max  bytes passed on of each stream; the rest is read and dropped in the guest
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    secret_env: frozenset[str] = frozenset()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    home: bool = True
    stdin_open: bool = False
    timeout_ms: int = 0
    output_bytes_max: int = 1024 * 1024


class FileKind(Enum):
    FILE = auto()
    DIRECTORY = auto()
    SYMLINK = auto()
    HARD_LINK = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFile:
    """Something to put into a guest's file system before the command starts.

    path        absolute and plain, bytes as Linux has them
    name        what errors call it
    size_bytes  of a file; 0 of all else
    mtime_s     seconds since 1970 UTC; None: the time of arrival
    target      a symbolic link's text; the absolute path of a hard link's file, which came before
    """

    path: bytes
    name: str
    kind: FileKind = FileKind.FILE
    uid: int = 0
    gid: int = 0
    mode: int = 0o644
    size_bytes: int = 0
    mtime_s: int | None = None
    target: bytes = b""


class Stream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Bytes that a process wrote."""

    spid: int
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """A stream passed its cap; said once, at its end."""

    spid: int
    stream: Stream
    emitted_bytes: int
    dropped_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A process ended; comes after all its output. Exit code or signal is -1 for the other.

    oom_killed  memory ran out, and the kernel killed the process or one that it started
    """

    spid: int
    pid: int
    exit_code: int
    signal: int
    core_dumped: bool
    timed_out: bool
    oom_killed: bool
    duration_us: int
    usage: ResourceUsage = field(default_factory=ResourceUsage)


ProcessEvent = Output | Truncated | Exited


EXIT_NOT_FOUND, EXIT_NOT_EXECUTABLE, EXIT_NOT_STARTED = 127, 126, 125
"""As shells have it."""


class SpawnRefused(Exception):  # noqa: N818 - a refusal with data, not a fault
    """The guest could not start the command: not found, not executable, bad directory.

    exit_code  EXIT_NOT_FOUND, EXIT_NOT_EXECUTABLE, or EXIT_NOT_STARTED for another reason
    """

    def __init__(self, *, exit_code: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        self.reason = reason


def why_refused(refusal: SpawnRefused, command: str, *, shell: bool) -> str:
    """Return the reason; with what to do where a command line was taken for a name."""
    if shell or refusal.exit_code != EXIT_NOT_FOUND or " " not in command.strip():
        return refusal.reason
    return f"{refusal.reason} (shell: true runs a command line; else arguments go into args)"


class Guest(Protocol):
    """A running guest. Every method raises GuestFailure when the guest is lost or misbehaves."""

    info: GuestInfo

    async def put_files(self, items: AsyncIterator[GuestFile | bytes]) -> None:
        """Put files in place, in their order; the bytes of each follow it in pieces.

        Parents are made (root, 0755). What is there is replaced, but no directory by anything
        else; a directory, or a symbolic link to one, stays where a directory is put. Many are
        under way at once. Raises OperationFailure naming the first that the guest refuses (no
        room, a directory stands there) or whose bytes are not of its size, and what `items` does.
        """
        ...

    async def spawn(self, spid: int, spec: ProcessSpec) -> int:
        """Start a process under the number `spid` (1, 2, ...) and return its pid in the guest.

        Raises SpawnRefused.
        """
        ...

    def events(self) -> AsyncIterator[ProcessEvent]:
        """Yield what all processes do, in order. One consumer; ends when the guest is closed."""
        ...

    async def write_stdin(self, spid: int, data: bytes) -> None:
        """Pass `data` on, waiting while the process does not read. Raises NotFoundError."""
        ...

    async def close_stdin(self, spid: int) -> None: ...

    async def signal(self, spid: int, number: int) -> None:
        """Signal the process group. Raises NotFoundError when there is no live process."""
        ...

    def capture(self, *, bytes_max: int) -> AsyncIterator[bytes]:
        """Kill what still runs and yield the tar of everything written (docs/guest-protocol.md).

        Hostile bytes. The generator raises LayerRefused when there is more than `bytes_max` or a
        name that a layer cannot hold, and GuestFailure; it ends normally only when the guest said
        that the tar is complete.
        """
        ...


class MicroVM(Protocol):
    """Starts guests and leaves nothing behind."""

    def start(self, spec: GuestSpec) -> AbstractAsyncContextManager[Guest]:
        """Start a guest that has said what it is; on exit it is gone.

        It sets its identity and mounts its disks meanwhile, before whatever it is asked to do; if
        it cannot, all that it is asked raises GuestFailure.

        Leaving the context ends the VM at once, whatever happened, and removes its files; waiting
        for QEMU to be reaped is not on the caller's path. Raises GuestFailure.
        """
        ...

    def memory_bytes(self) -> int:
        """Return how much memory of the host guests, waiting ones too, have made their own."""
        ...

    def keep_waiting(self, count: int, *, fill: bool) -> None:
        """Let at most `count` guests wait for runs that are not known yet.

        Surplus ones are ended at once; missing ones are made in the background while `fill`, which
        stops as soon as this is called without. A guest that waited is used once, as any other.
        """
        ...

    async def sweep(self) -> int:
        """End every guest and remove every file that an earlier process left; return how many."""
        ...
