"""What the guest agent says, as values: guest-protocol.md section 4.

Only shapes, units and numbers. Decoding is in `frames`, what the host says is in `commands`.
Everything here is a guest's claim; nothing is checked beyond its form.
"""

from dataclasses import dataclass
from enum import IntEnum


class GuestFrameType(IntEnum):
    """Frame types from guest to host; guest-protocol.md section 4."""

    READY = 0x8001
    CONFIGURED = 0x8002
    FILE_OK = 0x8003
    SPAWNED = 0x8004
    SPAWN_FAILED = 0x8005
    OUTPUT = 0x8006
    TRUNCATED = 0x8007
    STDIN_CREDIT = 0x8008
    SIGNALLED = 0x8009
    EXITED = 0x800A
    CAPTURED = 0x800B
    ERROR = 0x800C
    PREPARED = 0x800D
    REHEARSED = 0x800E


class AgentState(IntEnum):
    """How far a guest has come in its one life."""

    BLANK = 0
    CONFIGURED = 1
    CAPTURED = 2
    FAILED = 3


class Stream(IntEnum):
    """Which output of a process; numbered as its file descriptor."""

    STDOUT = 1
    STDERR = 2


class SpawnStage(IntEnum):
    """Where a spawn failed."""

    STATE = 1
    SLOT = 2
    FORK = 3
    NAMESPACE = 4
    CWD = 5
    CREDENTIALS = 6
    STDIO = 7
    EXEC = 8


class GuestErrorCode(IntEnum):
    """What an ERROR frame complains of."""

    BAD_FRAME = 1
    STATE = 2
    NO_PROCESS = 3
    LIMIT = 4
    BAD_NAME = 5
    IO = 6
    STDIN_CLOSED = 7
    MOUNT = 8
    DEVICE = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The agent listens. `uptime_us` counts from the guest kernel's start."""

    version: int
    state: AgentState
    agent_pid: int
    uptime_us: int
    kernel_release: str
    machine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What depends on no image is mounted; a template may be saved."""

    elapsed_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """The guest has gone through a whole run for nothing, and is as blank as it was."""

    elapsed_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """The root is mounted: microseconds until the disks' nodes opened, then for the mounts."""

    disks_us: int
    mounts_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOk:
    """One file of `size` bytes is in place."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """exec succeeded; `pid` is the guest's."""

    spid: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFailed:
    """Nothing runs; `errno` is Linux's number."""

    spid: int
    stage: SpawnStage
    errno: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """1 to MAX_OUTPUT_CHUNK_BYTES bytes that a process wrote."""

    spid: int
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """A stream passed its cap: `emitted` bytes were sent, `dropped` were not."""

    spid: int
    stream: Stream
    emitted: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StdinCredit:
    """The process's stdin took `count` bytes more."""

    spid: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """A signal was delivered to the process group."""

    spid: int
    signal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUsage:
    """wait4's struct rusage, getrusage(2). The guest's own word: numbers, not facts."""

    utime_s: int
    utime_us: int
    stime_s: int
    stime_us: int
    maxrss_kib: int
    ixrss: int
    idrss: int
    isrss: int
    minflt: int
    majflt: int
    nswap: int
    inblock: int
    oublock: int
    msgsnd: int
    msgrcv: int
    nsignals: int
    nvcsw: int
    nivcsw: int

    @property
    def user_cpu_us(self) -> int:
        """User CPU time in microseconds."""
        return self.utime_s * 1_000_000 + self.utime_us

    @property
    def system_cpu_us(self) -> int:
        """System CPU time in microseconds."""
        return self.stime_s * 1_000_000 + self.stime_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The last word on a spid. `code` is -1 when killed, `signal` is -1 when not.

    oom_killed  memory ran out, and the kernel killed the process or one that it started
    """

    spid: int
    pid: int
    code: int
    signal: int
    core_dumped: bool
    timed_out: bool
    oom_killed: bool
    duration_us: int
    usage: ResourceUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """The data port has carried exactly `size_bytes` of tar with `entries` entries."""

    size_bytes: int
    entries: int
    elapsed_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestError:
    """A request was refused or failed. `request_type` is its frame type, 0 if it had none."""

    request_type: int
    code: GuestErrorCode
    errno: int
    spid: int
    message: str


GuestFrame = (
    Ready
    | Prepared
    | Rehearsed
    | Configured
    | FileOk
    | Spawned
    | SpawnFailed
    | Output
    | Truncated
    | StdinCredit
    | Signalled
    | Exited
    | Captured
    | GuestError
)
