"""What became of a process: data, whatever the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

NOT_EXITED = -1
"""Exit code of a process that a signal killed, and signal of one that exited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUsage:
    """struct rusage of wait4(2) for the process and the children it waited for."""

    user_time_us: int = 0
    sys_time_us: int = 0
    max_rss_kb: int = 0
    shared_memory: int = 0
    unshared_memory: int = 0
    swaps: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    voluntary_ctx_switches: int = 0
    involuntary_ctx_switches: int = 0
    block_input_ops: int = 0
    block_output_ops: int = 0
    ipc_msgs_sent: int = 0
    ipc_msgs_received: int = 0
    signals_received: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedStream:
    """One output stream: the bytes kept are in the content store under `sha256`."""

    sha256: str
    size_bytes: int
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOutcome:
    """How a process ended.

    exit_code  0..255, -1 when a signal killed it
    signal     the signal's number, -1 when it exited
    oom_killed  memory ran out, and the guest's kernel killed the process or one that it started
    """

    pid: int
    exit_code: int
    signal: int
    core_dumped: bool
    timed_out: bool
    oom_killed: bool
    duration_us: int
    usage: ResourceUsage = field(default_factory=ResourceUsage)
    stdout: CapturedStream
    stderr: CapturedStream

    def to_fact(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_fact(cls, fact: Mapping[str, Any]) -> ProcessOutcome:
        values = dict(fact)
        values["usage"] = ResourceUsage(**values["usage"])
        values["stdout"] = CapturedStream(**values["stdout"])
        values["stderr"] = CapturedStream(**values["stderr"])
        return cls(**values)
