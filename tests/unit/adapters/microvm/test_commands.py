"""Built on the documented bytes and on arguments just outside the limits."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.commands import Configure, PciAddress, Spawn
from contree.domain.errors import InvalidFieldError
from contree.domain.instance import (
    PROCESS_BYTES_MAX,
    STRING_COST_BYTES,
    process_bytes,
    require_fitting,
)

CONFIGURE = Configure(
    entropy=bytes(32),
    realtime_ns=1,
    boot_id=bytes(16),
    hostname="h",
    layer_count=1,
    layers_disk=PciAddress(slot=5),
    scratch_disk=PciAddress(slot=6),
)
SPAWN = Spawn(
    spid=1,
    uid=0,
    gid=0,
    stdin_open=False,
    timeout_ms=0,
    stdout_cap_bytes=0,
    stderr_cap_bytes=0,
    cwd=b"/",
    argv=[b"true"],
    env=[],
)


def test_configure_has_the_documented_layout() -> None:
    raw = commands.configure(CONFIGURE)
    assert raw[:8] == bytes.fromhex("5b00000002000000")
    assert raw[8 + 32 : 8 + 40] == (1).to_bytes(8, "little")
    assert raw[8 + 60 : 8 + 62] == b"\x01\x00"
    assert raw[8 + 64 : 8 + 72] == bytes([0, 0, 0, 0, 0, 5, 0, 0])
    assert raw[8 + 80 :] == b"\x01\x00h" + bytes(8)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"entropy": bytes(31)}, "entropy"),
        ({"boot_id": bytes(17)}, "boot_id"),
        ({"layer_count": commands.MAX_LAYERS + 1}, "layer_count"),
        ({"hostname": ""}, "hostname"),
        ({"hostname": "h" * 65}, "hostname"),
        ({"hostname": "a\0b"}, "hostname"),
        ({"realtime_ns": -1}, "realtime_ns"),
        ({"scratch_room": 2**64}, "scratch_room"),
    ],
)
def test_configure_names_the_field_it_refuses(change: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        commands.configure(replace(CONFIGURE, **change))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"spid": 0}, "spid"),
        ({"uid": 2**32 - 1}, "uid"),
        ({"gid": -1}, "gid"),
        ({"timeout_ms": 2**32}, "timeout_ms"),
        ({"stderr_cap_bytes": -1}, "stderr_cap_bytes"),
        ({"argv": []}, "argv"),
        ({"argv": [b"a\0"]}, "argv"),
        ({"env": [b"A=\0"]}, "env"),
        ({"env": [b"A="] * (commands.MAX_ARGUMENTS + 1)}, "env"),
        ({"cwd": b"relative"}, "cwd"),
        ({"cwd": b"/" + b"c" * commands.MAX_PATH_BYTES}, "cwd"),
        ({"argv": [b"x" * commands.MAX_HOST_PAYLOAD_BYTES]}, "argv"),
    ],
)
def test_spawn_names_the_field_it_refuses(change: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        commands.spawn(replace(SPAWN, **change))


@pytest.mark.parametrize("path", [b"", b"a", b"/", b"/a/", b"/a//b", b"/./a", b"/a/..", b"/a\0"])
def test_a_path_that_is_not_plain_and_absolute_is_refused(path: bytes) -> None:
    with pytest.raises(ValueError, match="path"):
        commands.file_begin(path=path, uid=0, gid=0, mode=0o644, size=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: commands.file_data(b""),
        lambda: commands.file_data(bytes(commands.MAX_DATA_CHUNK_BYTES + 1)),
        lambda: commands.stdin(1, b""),
        lambda: commands.stdin(0, b"x"),
        lambda: commands.stdin_eof(2**32),
        lambda: commands.signal(1, 0),
        lambda: commands.signal(1, 65),
        lambda: commands.capture(0),
        lambda: PciAddress(slot=32),
        lambda: commands.file_begin(path=b"/a", uid=0, gid=0, mode=0o10000, size=0),
    ],
)
def test_values_outside_the_limits_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        make()


def test_what_the_door_lets_in_fits_a_frame() -> None:
    """The bound on a process is this frame's, said without it: domain.instance."""
    cwd, env = "/" + "c" * 4094, {f"V{n}": "\u00fc" * 20 for n in range(4096)}
    room = PROCESS_BYTES_MAX - process_bytes((), env, cwd)
    sizes = [131_071] * (room // (131_071 + STRING_COST_BYTES))
    sizes.append(room - sum(sizes) - STRING_COST_BYTES * (len(sizes) + 1))
    argv = ["x" * size for size in sizes]
    require_fitting(argv, env, cwd)
    with pytest.raises(InvalidFieldError, match=str(PROCESS_BYTES_MAX)):
        require_fitting([*argv[:-1], argv[-1] + "x"], env, cwd)
    frame = commands.spawn(
        replace(
            SPAWN,
            cwd=cwd.encode(),
            argv=[text.encode() for text in argv],
            env=[f"{name}={value}".encode() for name, value in env.items()],
        )
    )
    spare_bytes = struct.calcsize("<IHH") + commands.MAX_HOST_PAYLOAD_BYTES - len(frame)
    assert 0 <= spare_bytes < 64
