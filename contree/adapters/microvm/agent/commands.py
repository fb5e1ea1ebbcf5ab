"""Encode what the host tells the guest agent: guest-protocol.md section 3.

Pure functions from values to frame bytes. Each checks its arguments against the protocol's limits
and raises ValueError naming the field, so that nothing malformed reaches a guest. It knows nothing
of when a command is allowed; that is the runner's.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from contree.adapters.microvm.agent.frames import PROTOCOL_VERSION

MAX_HOST_PAYLOAD_BYTES = 1_048_576
MAX_DATA_CHUNK_BYTES = 65_536
MAX_LIVE_PROCESSES = 64
STDIN_WINDOW_BYTES = 65_536
MAX_PATH_BYTES = 4_095
MAX_ARGUMENTS = 16_384
MAX_LAYERS = 200
LAYER_ROOM_BYTES = 1 << 36
MAX_HOSTNAME_BYTES = 64
ENTROPY_BYTES = 32
BOOT_ID_BYTES = 16

_HEADER = struct.Struct("<IHH")
_FLAG_OTHER_SCRATCH = 1
_FLAG_STDIN_OPEN = 1
_FLAG_HOME = 2
_MAX_MODE = 0o7777
_MAX_SIGNAL = 64
_MAX_U32 = 2**32 - 1
_MAX_U64 = 2**64 - 1
_MIN_I64 = -(2**63)
_MAX_ID = 2**32 - 2  # 2**32 - 1 means "leave unchanged" to chown and setuid


class HostFrameType(IntEnum):
    """Frame types from host to guest; guest-protocol.md section 3."""

    HELLO = 0x0001
    CONFIGURE = 0x0002
    FILE_BEGIN = 0x0003
    FILE_DATA = 0x0004
    FILE_END = 0x0005
    SPAWN = 0x0006
    STDIN = 0x0007
    STDIN_EOF = 0x0008
    SIGNAL = 0x0009
    CAPTURE = 0x000A
    SHUTDOWN = 0x000B
    PREPARE = 0x000C
    REHEARSE = 0x000D


class FileKind(IntEnum):
    """What FILE_BEGIN puts in place; guest-protocol.md section 3."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2
    HARD_LINK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PciAddress:
    """Where a virtio disk sits in the guest, as in libvirt's `<address type='pci'>`."""

    domain: int = 0
    bus: int = 0
    slot: int
    function: int = 0

    def __post_init__(self) -> None:
        for name, value, high in (
            ("domain", self.domain, 0xFFFF),
            ("bus", self.bus, 0xFF),
            ("slot", self.slot, 0x1F),
            ("function", self.function, 7),
        ):
            _check_range(name, value, 0, high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """What makes a blank guest this guest; guest-protocol.md section 3.

    entropy          ENTROPY_BYTES fresh random bytes, never used for another guest
    realtime_ns      wall clock, nanoseconds since 1970 UTC
    boot_id          BOOT_ID_BYTES, a UUID's bytes
    hostname         1..MAX_HOSTNAME_BYTES bytes of UTF-8
    layer_count      0..MAX_LAYERS layers on their disk, LAYER_ROOM_BYTES apart, bottom first
    other_scratch    the scratch disk is not the one that PREPARE mounted
    scratch_room     bytes of it that may be taken, 0 for all
    """

    entropy: bytes
    realtime_ns: int
    boot_id: bytes
    hostname: str
    layer_count: int
    layers_disk: PciAddress
    scratch_disk: PciAddress
    other_scratch: bool = False
    scratch_room: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """One process to start; guest-protocol.md section 3.

    spid                  1.., never used before in this guest
    timeout_ms            0 = none, else 1..2**32-1 from the fork
    stdout_cap_bytes      bytes sent of stdout; the rest is counted and dropped
    cwd                   absolute path, made when missing
    argv                  1..MAX_ARGUMENTS; argv[0] without a slash is looked up in env's PATH
    env                   NAME=value, the whole environment, 0..MAX_ARGUMENTS
    home                  where env has no HOME, the guest sets the one of uid's passwd entry
    """

    spid: int
    uid: int
    gid: int
    stdin_open: bool
    timeout_ms: int
    stdout_cap_bytes: int
    stderr_cap_bytes: int
    cwd: bytes
    argv: Sequence[bytes]
    env: Sequence[bytes]
    home: bool = True


def hello() -> bytes:
    """Return the frame that asks the agent for READY."""
    return _frame(HostFrameType.HELLO, struct.pack("<HH", PROTOCOL_VERSION, 0))


def prepare(*, layers_disk: PciAddress, scratch_disk: PciAddress) -> bytes:
    """Return the frame that makes a blank guest mount what depends on no image."""
    return _frame(HostFrameType.PREPARE, _pci(layers_disk) + _pci(scratch_disk))


def configure(request: Configure) -> bytes:
    """Return the CONFIGURE frame of `request`. Raises ValueError naming the field."""
    return _frame(HostFrameType.CONFIGURE, _configuration(request))


def rehearse(request: Configure) -> bytes:
    """Return the frame that makes a prepared guest do a run with `request`, and undo it."""
    return _frame(HostFrameType.REHEARSE, _configuration(request))


def _configuration(request: Configure) -> bytes:
    _check_range("entropy", len(request.entropy), ENTROPY_BYTES, ENTROPY_BYTES)
    _check_range("boot_id", len(request.boot_id), BOOT_ID_BYTES, BOOT_ID_BYTES)
    _check_range("realtime_ns", request.realtime_ns, 0, _MAX_U64)
    _check_range("layer_count", request.layer_count, 0, MAX_LAYERS)
    _check_range("scratch_room", request.scratch_room, 0, _MAX_U64)
    hostname = request.hostname.encode()
    _check_range("hostname", len(hostname), 1, MAX_HOSTNAME_BYTES)
    fixed = struct.pack(
        "<32sQ16sIHH", request.entropy, request.realtime_ns, request.boot_id,
        _FLAG_OTHER_SCRATCH if request.other_scratch else 0, request.layer_count, 0,
    )  # fmt: skip
    return (
        fixed
        + _pci(request.layers_disk)
        + _pci(request.scratch_disk)
        + _string("hostname", hostname)
        + struct.pack("<Q", request.scratch_room)
    )


def file_begin(
    *,
    path: bytes,
    uid: int,
    gid: int,
    mode: int,
    size: int,
    kind: FileKind = FileKind.FILE,
    mtime_s: int | None = None,
    target: bytes = b"",
) -> bytes:
    """Return FILE_BEGIN for what comes to the absolute, normalised `path` in the guest.

    size     bytes of a file; 0 of all else
    mtime_s  None: the time of arrival
    target   of links only: a symbolic link's text, the path of a hard link's file
    """
    _check_range("uid", uid, 0, _MAX_ID)
    _check_range("gid", gid, 0, _MAX_ID)
    _check_range("mode", mode, 0, _MAX_MODE)
    _check_range("size", size, 0, _MAX_U64 if kind is FileKind.FILE else 0)
    mtime = _MIN_I64 if mtime_s is None else mtime_s
    _check_range("mtime_s", mtime, _MIN_I64, -_MIN_I64 - 1)
    _check_plain("path", path)
    if kind is FileKind.HARD_LINK:
        _check_plain("target", target)
    is_link = kind in {FileKind.SYMLINK, FileKind.HARD_LINK}
    _check_range("target", len(target), int(is_link), MAX_PATH_BYTES if is_link else 0)
    fixed = struct.pack("<IIIIQq", uid, gid, mode, kind, size, mtime)
    return _frame(HostFrameType.FILE_BEGIN, fixed + _path("path", path) + _string("target", target))


def file_data(data: bytes) -> bytes:
    """Return FILE_DATA with 1..MAX_DATA_CHUNK_BYTES bytes."""
    _check_range("data", len(data), 1, MAX_DATA_CHUNK_BYTES)
    return _frame(HostFrameType.FILE_DATA, data)


def file_end() -> bytes:
    """Return the frame that ends a file and asks for FILE_OK."""
    return _frame(HostFrameType.FILE_END, b"")


def spawn(request: Spawn) -> bytes:
    """Return the SPAWN frame of `request`. Raises ValueError naming the field.

    argv and env together must fit MAX_HOST_PAYLOAD_BYTES; Linux itself refuses a single string
    of 131,072 bytes and more (E2BIG, reported as SPAWN_FAILED).
    """
    _check_range("spid", request.spid, 1, _MAX_U32)
    _check_range("timeout_ms", request.timeout_ms, 0, _MAX_U32)
    _check_range("uid", request.uid, 0, _MAX_ID)
    _check_range("gid", request.gid, 0, _MAX_ID)
    _check_range("stdout_cap_bytes", request.stdout_cap_bytes, 0, _MAX_U64)
    _check_range("stderr_cap_bytes", request.stderr_cap_bytes, 0, _MAX_U64)
    _check_range("argv", len(request.argv), 1, MAX_ARGUMENTS)
    _check_range("env", len(request.env), 0, MAX_ARGUMENTS)
    if not request.cwd.startswith(b"/"):
        raise ValueError(f"cwd={request.cwd!r}: must be absolute")
    fixed = struct.pack(
        "<IIIIIIQQ",
        request.spid,
        request.uid,
        request.gid,
        (request.stdin_open and _FLAG_STDIN_OPEN) | (request.home and _FLAG_HOME),
        request.timeout_ms,
        0,
        request.stdout_cap_bytes,
        request.stderr_cap_bytes,
    )
    return _frame(
        HostFrameType.SPAWN,
        fixed
        + _path("cwd", request.cwd)
        + _strings("argv", request.argv)
        + _strings("env", request.env),
    )


def stdin(spid: int, data: bytes) -> bytes:
    """Return STDIN with 1..MAX_DATA_CHUNK_BYTES bytes; the caller keeps to the credit."""
    _check_range("data", len(data), 1, MAX_DATA_CHUNK_BYTES)
    return _frame(HostFrameType.STDIN, _spid(spid) + data)


def stdin_eof(spid: int) -> bytes:
    """Return the frame that closes a process's stdin once what was sent is written."""
    return _frame(HostFrameType.STDIN_EOF, _spid(spid))


def signal(spid: int, number: int) -> bytes:
    """Return the frame that sends signal `number` (1..64) to the process's group."""
    _check_range("signal", number, 1, _MAX_SIGNAL)
    return _frame(HostFrameType.SIGNAL, _spid(spid) + struct.pack("<I", number))


def capture(max_bytes: int) -> bytes:
    """Return the frame that ends the guest's work and streams its changes, at most `max_bytes`."""
    _check_range("max_bytes", max_bytes, 1, _MAX_U64)
    return _frame(HostFrameType.CAPTURE, struct.pack("<Q", max_bytes))


def shutdown() -> bytes:
    """Return the frame that powers the guest off."""
    return _frame(HostFrameType.SHUTDOWN, b"")


def _frame(kind: HostFrameType, payload: bytes) -> bytes:
    if len(payload) > MAX_HOST_PAYLOAD_BYTES:
        raise ValueError(
            f"{kind.name} of {len(payload)} bytes, allowed {MAX_HOST_PAYLOAD_BYTES}: "
            "shorten argv or env"
        )
    return _HEADER.pack(len(payload), kind, 0) + payload


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}={value}, allowed {low}..{high}")


def _spid(spid: int) -> bytes:
    _check_range("spid", spid, 1, _MAX_U32)
    return struct.pack("<I", spid)


def _pci(address: PciAddress) -> bytes:
    return struct.pack("<IBBBB", address.domain, address.bus, address.slot, address.function, 0)


def _path(name: str, path: bytes) -> bytes:
    _check_range(name, len(path), 1, MAX_PATH_BYTES)
    return _string(name, path)


def _check_plain(name: str, path: bytes) -> None:
    components = path.split(b"/")[1:]
    if not path.startswith(b"/") or {b"", b".", b".."} & set(components):
        raise ValueError(f"{name}={path!r}: must be absolute, without empty, . or .. components")


def _string(name: str, text: bytes) -> bytes:
    _refuse_zero_byte(name, text)
    return struct.pack("<H", len(text)) + text


def _strings(name: str, texts: Sequence[bytes]) -> bytes:
    parts = [struct.pack("<I", len(texts))]
    for text in texts:
        _refuse_zero_byte(name, text)
        parts += [struct.pack("<I", len(text)), text]
    return b"".join(parts)


def _refuse_zero_byte(name: str, text: bytes) -> None:
    if b"\0" in text:
        raise ValueError(f"{name}: a zero byte cannot be passed to a process or a file system")
