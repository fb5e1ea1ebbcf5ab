"""The C codec run as a filter, held to the bytes the Python codec reads and writes."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.commands import Configure, FileKind, HostFrameType, PciAddress
from contree.adapters.microvm.agent.frames import PROTOCOL_VERSION, FrameDecoder
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
from tests.guest.session import spawn_request

USAGE = ResourceUsage(
    utime_s=1,
    utime_us=2,
    stime_s=3,
    stime_us=4,
    maxrss_kib=5,
    ixrss=0,
    idrss=0,
    isrss=0,
    minflt=6,
    majflt=7,
    nswap=0,
    inblock=8,
    oublock=9,
    msgsnd=0,
    msgrcv=0,
    nsignals=0,
    nvcsw=10,
    nivcsw=11,
)
EXITED = Exited(
    spid=9,
    pid=10,
    code=3,
    signal=-1,
    core_dumped=False,
    timed_out=False,
    oom_killed=False,
    duration_us=1_234_567,
    usage=USAGE,
)
EXPECTED: list[GuestFrame] = [
    Prepared(elapsed_us=12),
    Rehearsed(elapsed_us=13),
    Configured(disks_us=1000, mounts_us=2**64 - 1),
    FileOk(size=1 << 40),
    Spawned(spid=1, pid=77),
    SpawnFailed(spid=2, stage=SpawnStage.EXEC, errno=2),
    Output(spid=3, stream=Stream.STDERR, data=b"a\0\xff"),
    Truncated(spid=4, stream=Stream.STDOUT, emitted=5, dropped=6),
    StdinCredit(spid=5, count=65_536),
    Signalled(spid=6, signal=15),
    EXITED,
    replace(EXITED, code=-1, signal=9, core_dumped=True, timed_out=True),
    replace(EXITED, code=-1, signal=9, oom_killed=True),
    Captured(size_bytes=1024, entries=1, elapsed_us=50),
    GuestError(
        request_type=HostFrameType.CAPTURE,
        code=GuestErrorCode.BAD_NAME,
        errno=0,
        spid=7,
        message="caf\\xe9/.wh.x",
    ),
]


def encoded_in_c(built: Path) -> bytes:
    return subprocess.run(
        [built / "tests/mirror", "encode"], check=True, capture_output=True
    ).stdout


def decoded_in_c(built: Path, frames: bytes) -> list[str]:
    result = subprocess.run(
        [built / "tests/mirror", "decode"], check=True, capture_output=True, input=frames
    )
    return result.stdout.decode().splitlines()


def test_every_guest_frame_written_in_c_is_read_in_python(built: Path) -> None:
    ready, *others = FrameDecoder().feed(encoded_in_c(built))
    assert isinstance(ready, Ready)
    assert (ready.version, ready.state) == (PROTOCOL_VERSION, AgentState.CONFIGURED)
    assert ready.agent_pid > 0
    assert ready.kernel_release
    assert others == EXPECTED


def test_the_mirror_covers_every_guest_frame_type(built: Path) -> None:
    raw, at, seen = encoded_in_c(built), 0, set()
    while at < len(raw):
        seen.add(int.from_bytes(raw[at + 4 : at + 6], "little"))
        at += 8 + int.from_bytes(raw[at : at + 4], "little")
    assert seen == set(GuestFrameType)


def test_configure_written_in_python_is_read_in_c(built: Path) -> None:
    request = Configure(
        entropy=bytes(range(32)),
        realtime_ns=1_700_000_000_123_456_789,
        boot_id=bytes(range(16, 32)),
        hostname="höst",
        layer_count=7,
        layers_disk=PciAddress(domain=1, bus=2, slot=3, function=4),
        scratch_disk=PciAddress(slot=31),
        other_scratch=True,
        scratch_room=2**63,
    )
    (line,) = decoded_in_c(built, commands.configure(request))
    assert line == (
        f"0002 entropy={bytes(range(32)).hex()} boot_id={bytes(range(16, 32)).hex()} "
        f"hostname={'höst'.encode().hex()} layers=1:2:3.4 scratch=0:0:31.0 "
        "ns=1700000000123456789 layers=7 other_scratch=1 "
        f"room={2**63}"
    )


def test_prepare_written_in_python_is_read_in_c(built: Path) -> None:
    frame = commands.prepare(
        layers_disk=PciAddress(slot=5), scratch_disk=PciAddress(bus=1, slot=6)
    )
    assert decoded_in_c(built, frame) == ["000c layers=0:0:5.0 scratch=0:1:6.0"]


def test_spawn_and_files_written_in_python_are_read_in_c(built: Path) -> None:
    spawn = spawn_request(
        4_000_000_000,
        "cat",
        "",
        "a b",
        uid=1,
        gid=2,
        stdin_open=True,
        timeout_ms=3,
        stdout_cap_bytes=4,
        stderr_cap_bytes=2**64 - 1,
        cwd=b"/w",
        env=[b"A=1", b"B="],
        home=False,
    )
    lines = decoded_in_c(
        built,
        commands.spawn(spawn)
        + commands.file_begin(path=b"/a/b", uid=5, gid=6, mode=0o4755, size=7)
        + commands.file_data(b"1234567")
        + commands.file_begin(
            path=b"/l",
            uid=0,
            gid=0,
            mode=0o777,
            size=0,
            kind=FileKind.SYMLINK,
            mtime_s=-2,
            target=b"../x",
        ),
    )
    assert lines == [
        f"0006 4000000000 1 2 1 3 4 {2**64 - 1} /w 0 [cat] [] [a b] {{A=1}} {{B=}}",
        f"0003 5 6 4755 0 7 {-(2**63)} /a/b ",
        f"0004 payload={b'1234567'.hex()}",
        "0003 0 0 777 2 0 -2 /l ../x",
    ]


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (commands.hello(), f"0001 payload={PROTOCOL_VERSION:02x}000000"),
        (commands.file_end(), "0005 payload="),
        (commands.stdin(258, b"x"), "0007 payload=0201000078"),
        (commands.stdin_eof(1), "0008 payload=01000000"),
        (commands.signal(1, 15), "0009 payload=010000000f000000"),
        (commands.capture(1 << 33), "000a payload=0000000002000000"),
        (commands.shutdown(), "000b payload="),
    ],
)
def test_small_frames_have_the_documented_bytes(built: Path, frame: bytes, line: str) -> None:
    assert decoded_in_c(built, frame) == [line]
