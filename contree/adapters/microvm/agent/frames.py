"""Decode what the guest agent sends: guest-protocol.md sections 2 and 4, byte by byte.

Pure and incremental: bytes in, frozen values (`messages`) out. The bytes come from an untrusted
guest, so every length is bounded before anything is kept, and the first malformed frame ends the
conversation: GuestProtocolError, and the decoder refuses to go on. It does not judge meaning:
whether a spid exists, or an answer was due, is the runner's business. The other direction is in
`commands`.
"""

import struct
from collections.abc import Callable
from dataclasses import fields
from enum import IntEnum
from typing import TypeVar

from contree.adapters.microvm.agent.messages import (
    AgentState,
    Captured,
    Configured,
    Exited,
    FileOk,
    GuestError,
    GuestErrorCode,
    GuestFrame,
    GuestFrameType,
    Output,
    Prepared,
    Ready,
    Rehearsed,
    ResourceUsage,
    Signalled,
    Spawned,
    SpawnFailed,
    SpawnStage,
    StdinCredit,
    Stream,
    Truncated,
)

PROTOCOL_VERSION = 5

MAX_GUEST_PAYLOAD_BYTES = 65_536
MAX_OUTPUT_CHUNK_BYTES = 32_768
MAX_MESSAGE_BYTES = 1_024
MAX_NAME_BYTES = 256  # kernel release and machine; the kernel itself allows 64

_HEADER = struct.Struct("<IHH")
_U16 = struct.Struct("<H")
_READY = struct.Struct("<HHIQ")
_TWO_U64 = struct.Struct("<QQ")
_U64 = struct.Struct("<Q")
_TWO_U32 = struct.Struct("<II")
_SPAWN_FAILED = struct.Struct("<IHHi")
_OUTPUT = struct.Struct("<IB")
_TRUNCATED = struct.Struct("<IBQQ")
_EXITED = struct.Struct("<IIiiIQ")
_RUSAGE = struct.Struct("<18q")
_CAPTURED = struct.Struct("<QQQ")
_ERROR = struct.Struct("<HHiI")

_FLAG_CORE_DUMPED = 1
_FLAG_TIMED_OUT = 2
_FLAG_OOM_KILLED = 4
_EXITED_FLAGS = _FLAG_CORE_DUMPED | _FLAG_TIMED_OUT | _FLAG_OOM_KILLED
_MAX_EXIT_CODE = 255
_MAX_SIGNAL = 64
_RUSAGE_FIELDS = tuple(field.name for field in fields(ResourceUsage))

_Member = TypeVar("_Member", bound=IntEnum)


class GuestProtocolError(Exception):
    """The guest sent bytes that no agent of ours sends; `reason` says which rule they break."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FrameDecoder:
    """Turns a guest's byte stream, cut anywhere, into frames.

    Holds at most one header and one payload of MAX_GUEST_PAYLOAD_BYTES between calls, plus what
    the caller passes in.
    """

    __slots__ = ("_broken", "_buffer")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._broken: GuestProtocolError | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame that are being kept."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[GuestFrame]:
        """Return the frames that `data` completes, in order.

        Raises GuestProtocolError at the first malformed frame, and on every later call; frames
        before it in the same call are lost with it, since the guest is given up.
        """
        if self._broken is not None:
            raise self._broken
        self._buffer += data
        try:
            return self._drain()
        except GuestProtocolError as error:
            self._broken = error
            self._buffer.clear()
            raise

    def _drain(self) -> list[GuestFrame]:
        frames: list[GuestFrame] = []
        at = 0
        while len(self._buffer) - at >= _HEADER.size:
            length, number, reserved = _HEADER.unpack_from(self._buffer, at)
            kind = _member(GuestFrameType, number)
            if reserved != 0:
                raise GuestProtocolError(f"reserved header field is {reserved}")
            if length > MAX_GUEST_PAYLOAD_BYTES:
                raise GuestProtocolError(
                    f"{kind.name} of {length} bytes, allowed {MAX_GUEST_PAYLOAD_BYTES}"
                )
            start = at + _HEADER.size
            if len(self._buffer) - start < length:
                break
            frames.append(_decode(kind, bytes(self._buffer[start : start + length])))
            at = start + length
        del self._buffer[:at]
        return frames


class _Payload:
    """A cursor over one payload; every read is checked against what is there."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        if len(self._data) - self._at < layout.size:
            raise GuestProtocolError(f"payload of {len(self._data)} bytes is too short")
        values = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return values

    def text(self, max_bytes: int) -> str:
        (length,) = self.take(_U16)
        if length > max_bytes:
            raise GuestProtocolError(f"text of {length} bytes, allowed {max_bytes}")
        if len(self._data) - self._at < length:
            raise GuestProtocolError(f"text of {length} bytes exceeds its payload")
        raw = self._data[self._at : self._at + length]
        self._at += length
        return raw.decode("utf-8", "backslashreplace")

    def rest(self, max_bytes: int) -> bytes:
        raw = self._data[self._at :]
        if not 1 <= len(raw) <= max_bytes:
            raise GuestProtocolError(f"chunk of {len(raw)} bytes, allowed 1..{max_bytes}")
        self._at = len(self._data)
        return raw

    def end(self) -> None:
        if self._at != len(self._data):
            raise GuestProtocolError(f"{len(self._data) - self._at} bytes after the last field")


def _decode(kind: GuestFrameType, data: bytes) -> GuestFrame:
    """Return the frame of one whole payload; raise GuestProtocolError if it is not exactly that."""
    payload = _Payload(data)
    frame = _DECODERS[kind](payload)
    payload.end()
    return frame


def _ready(payload: _Payload) -> GuestFrame:
    version, state, agent_pid, uptime_us = payload.take(_READY)
    return Ready(
        version=version,
        state=_member(AgentState, state),
        agent_pid=agent_pid,
        uptime_us=uptime_us,
        kernel_release=payload.text(MAX_NAME_BYTES),
        machine=payload.text(MAX_NAME_BYTES),
    )


def _prepared(payload: _Payload) -> GuestFrame:
    (elapsed_us,) = payload.take(_U64)
    return Prepared(elapsed_us=elapsed_us)


def _rehearsed(payload: _Payload) -> GuestFrame:
    (elapsed_us,) = payload.take(_U64)
    return Rehearsed(elapsed_us=elapsed_us)


def _configured(payload: _Payload) -> GuestFrame:
    disks_us, mounts_us = payload.take(_TWO_U64)
    return Configured(disks_us=disks_us, mounts_us=mounts_us)


def _file_ok(payload: _Payload) -> GuestFrame:
    (size,) = payload.take(_U64)
    return FileOk(size=size)


def _spawned(payload: _Payload) -> GuestFrame:
    spid, pid = payload.take(_TWO_U32)
    return Spawned(spid=spid, pid=pid)


def _spawn_failed(payload: _Payload) -> GuestFrame:
    spid, stage, reserved, errno = payload.take(_SPAWN_FAILED)
    _require_zero(reserved)
    return SpawnFailed(spid=spid, stage=_member(SpawnStage, stage), errno=errno)


def _output(payload: _Payload) -> GuestFrame:
    spid, stream = payload.take(_OUTPUT)
    return Output(
        spid=spid, stream=_member(Stream, stream), data=payload.rest(MAX_OUTPUT_CHUNK_BYTES)
    )


def _truncated(payload: _Payload) -> GuestFrame:
    spid, stream, emitted, dropped = payload.take(_TRUNCATED)
    if dropped == 0:
        raise GuestProtocolError("TRUNCATED, but nothing dropped")
    return Truncated(spid=spid, stream=_member(Stream, stream), emitted=emitted, dropped=dropped)


def _stdin_credit(payload: _Payload) -> GuestFrame:
    spid, count = payload.take(_TWO_U32)
    if count == 0:
        raise GuestProtocolError("STDIN_CREDIT of nothing")
    return StdinCredit(spid=spid, count=count)


def _signalled(payload: _Payload) -> GuestFrame:
    spid, signal = payload.take(_TWO_U32)
    return Signalled(spid=spid, signal=signal)


def _exited(payload: _Payload) -> GuestFrame:
    spid, pid, code, signal, flags, duration_us = payload.take(_EXITED)
    if flags & ~_EXITED_FLAGS:
        raise GuestProtocolError(f"EXITED with unknown flags {flags:#x}")
    exited = signal == -1 and 0 <= code <= _MAX_EXIT_CODE
    killed = code == -1 and 1 <= signal <= _MAX_SIGNAL
    if not (exited or killed):
        raise GuestProtocolError(f"EXITED with code {code} and signal {signal}")
    usage = ResourceUsage(**dict(zip(_RUSAGE_FIELDS, payload.take(_RUSAGE), strict=True)))
    return Exited(
        spid=spid,
        pid=pid,
        code=code,
        signal=signal,
        core_dumped=bool(flags & _FLAG_CORE_DUMPED),
        timed_out=bool(flags & _FLAG_TIMED_OUT),
        oom_killed=bool(flags & _FLAG_OOM_KILLED),
        duration_us=duration_us,
        usage=usage,
    )


def _captured(payload: _Payload) -> GuestFrame:
    size_bytes, entries, elapsed_us = payload.take(_CAPTURED)
    return Captured(size_bytes=size_bytes, entries=entries, elapsed_us=elapsed_us)


def _error(payload: _Payload) -> GuestFrame:
    request_type, code, errno, spid = payload.take(_ERROR)
    return GuestError(
        request_type=request_type,
        code=_member(GuestErrorCode, code),
        errno=errno,
        spid=spid,
        message=payload.text(MAX_MESSAGE_BYTES),
    )


def _require_zero(reserved: int) -> None:
    if reserved != 0:
        raise GuestProtocolError(f"reserved field is {reserved}")


def _member(kind: type[_Member], value: int) -> _Member:
    """Return the member of `kind` numbered `value`, or refuse the frame."""
    try:
        return kind(value)
    except ValueError:
        raise GuestProtocolError(f"{value} is no {kind.__name__}") from None


_DECODERS: dict[GuestFrameType, Callable[[_Payload], GuestFrame]] = {
    GuestFrameType.READY: _ready,
    GuestFrameType.PREPARED: _prepared,
    GuestFrameType.REHEARSED: _rehearsed,
    GuestFrameType.CONFIGURED: _configured,
    GuestFrameType.FILE_OK: _file_ok,
    GuestFrameType.SPAWNED: _spawned,
    GuestFrameType.SPAWN_FAILED: _spawn_failed,
    GuestFrameType.OUTPUT: _output,
    GuestFrameType.TRUNCATED: _truncated,
    GuestFrameType.STDIN_CREDIT: _stdin_credit,
    GuestFrameType.SIGNALLED: _signalled,
    GuestFrameType.EXITED: _exited,
    GuestFrameType.CAPTURED: _captured,
    GuestFrameType.ERROR: _error,
}
