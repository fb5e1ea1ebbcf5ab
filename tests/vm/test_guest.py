"""What a process finds in a real guest; all tests share one guest (fixture `box`)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contree.app.guest.microvm import Output, ProcessSpec, SpawnRefused
from contree.domain.errors import NotFoundError, OperationFailure
from tests.support.guest_files import put_file
from tests.vm.conversation import Conversation, chunks
from tests.vm.fixtures import MIB

pytestmark = pytest.mark.vm


async def test_identity_is_the_guest_s_own(box: Conversation) -> None:
    info = box.guest.info
    done = await box.sh("hostname; cat /proc/sys/kernel/random/boot_id; uname -r; date +%s")
    hostname, boot_id, release, now_s = done.text.split()
    assert hostname == "shared-box"
    assert boot_id == str(info.boot_id)
    assert release == info.kernel
    assert info.init_pid == 1
    assert boot_id != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert abs(int(now_s) - datetime.now(UTC).timestamp()) < 60


async def test_random_numbers_are_ready_before_the_first_process(box: Conversation) -> None:
    done = await box.sh(
        "head -c 32 /dev/random | md5sum; cat /proc/sys/kernel/random/entropy_avail"
    )
    digest, available = done.text.splitlines()
    assert len(digest.split()[0]) == 32
    assert int(available) >= 256


async def test_environment_is_what_was_given_and_a_home(box: Conversation) -> None:
    env = {"PATH": "/bin", "GREETING": "grüß dich", "EMPTY": ""}
    done = await box.end(await box.spawn("env", env=env))
    assert sorted(done.text.splitlines()) == ["EMPTY=", "GREETING=grüß dich", "HOME=/", "PATH=/bin"]


async def test_uid_gid_and_a_directory_made_for_it(box: Conversation) -> None:
    done = await box.sh("id -u; id -g; pwd; ls -ld .", uid=1234, gid=4321, cwd="/new/deep/place")
    uid, gid, cwd, listing = done.text.splitlines()
    assert (uid, gid, cwd) == ("1234", "4321", "/new/deep/place")
    assert listing.startswith("drwxr-xr-x")


async def test_files_keep_owner_and_mode_and_replace_what_stood_there(box: Conversation) -> None:
    content = os.urandom(3 * MIB + 17)
    await box.sh("mkdir /files; ln -s /etc/motd /files/data")
    await put_file(
        box.guest,
        "/files/data",
        chunks(content[:MIB], b"", content[MIB:]),
        size_bytes=len(content),
        uid=1000,
        gid=2000,
        mode=0o4751,
    )
    done = await box.sh("stat -c '%u %g %a %F' /files/data; sha256sum /files/data; cat /etc/motd")
    owner, digest, motd = done.text.splitlines()
    assert owner == "1000 2000 4751 regular file"
    assert digest.split()[0] == hashlib.sha256(content).hexdigest()
    assert motd == "base"  # the link was replaced, not followed


async def test_a_file_that_fails_leaves_the_next_one_unharmed(box: Conversation) -> None:
    with pytest.raises(OperationFailure, match=r"/files-2/\.\./x"):
        await put_file(
            box.guest, "/files-2/../x", chunks(b""), size_bytes=0, uid=0, gid=0, mode=0o644
        )
    with pytest.raises(OperationFailure, match="/bin"):
        await put_file(
            box.guest, "/bin", chunks(b"x" * MIB), size_bytes=MIB, uid=0, gid=0, mode=0o644
        )
    await put_file(box.guest, "/empty", chunks(), size_bytes=0, uid=0, gid=0, mode=0o600)
    assert (await box.sh("stat -c '%s %a' /empty")).text == "0 600\n"


async def test_megabytes_pass_through_stdin_and_stdout(box: Conversation) -> None:
    content = os.urandom(4 * MIB)
    spid = await box.spawn("cat", stdin_open=True, output_bytes_max=8 * MIB)
    await box.guest.write_stdin(spid, content)
    await box.guest.close_stdin(spid)
    assert (await box.end(spid)).stdout == content


async def test_a_process_that_does_not_read_stops_only_its_writer(box: Conversation) -> None:
    spid = await box.spawn("sleep", "600", stdin_open=True)
    writing = asyncio.create_task(box.guest.write_stdin(spid, bytes(MIB)))
    assert (await box.sh("echo meanwhile")).text == "meanwhile\n"
    assert not writing.done()
    await box.guest.signal(spid, 9)
    await box.end(spid)
    with pytest.raises(NotFoundError):
        await writing


async def test_a_process_that_closes_its_stdin_refuses_more(box: Conversation) -> None:
    spid = await box.spawn("/bin/sh", "-c", "exec 0</dev/null; sleep 600", stdin_open=True)
    with pytest.raises(NotFoundError):
        await box.guest.write_stdin(spid, bytes(4 * MIB))
    await box.guest.signal(spid, 9)
    assert (await box.end(spid)).after_exit == 0


async def test_standard_error_is_a_stream_of_its_own(box: Conversation) -> None:
    done = await box.sh("echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.code) == (b"out\n", b"err\n", 7)


async def test_a_signal_reaches_the_whole_group(box: Conversation) -> None:
    spid = await box.spawn("/bin/sh", "-c", "sleep 600 & echo $!; wait")
    child = int(await box.output(spid, 2))
    await box.guest.signal(spid, 9)
    await box.end(spid)
    # Its parent is the agent now, which may not have reaped it yet.
    waited = f"while kill -0 {child} 2>/dev/null; do sleep 0.01; done"
    assert (await box.sh(waited, timeout_ms=60_000)).code == 0


async def test_processes_run_side_by_side(box: Conversation) -> None:
    spids = [await box.spawn("/bin/sh", "-c", f"sleep 0.2; echo {n}") for n in range(10)]
    done = await asyncio.gather(*(box.end(spid) for spid in spids))
    assert [d.text for d in done] == [f"{n}\n" for n in range(10)]


async def test_resources_used_are_reported(box: Conversation) -> None:
    done = await box.sh("i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done")
    assert done.exited is not None
    usage = done.exited.usage
    assert usage.user_time_us + usage.sys_time_us > 0
    assert usage.max_rss_kb > 100
    assert done.exited.duration_us > 0


@pytest.mark.parametrize(
    ("argv", "cwd", "exit_code", "names"),
    [
        (("no-such-thing",), "/", 127, "no-such-thing"),
        (("/bin/no-such-thing",), "/", 127, "/bin/no-such-thing"),
        (("/not-executable",), "/", 126, "/not-executable"),
        (("/etc",), "/", 126, "/etc"),
        (("true",), "/etc/motd", 125, "/etc/motd"),
        (("true", "x" * (2**20)), "/", 125, "argv"),
        (("true", "x" * 200_000), "/", 126, "true"),
    ],
)
async def test_what_cannot_be_started_is_refused_with_a_shell_s_code(
    box: Conversation, argv: tuple[str, ...], cwd: str, exit_code: int, names: str
) -> None:
    with pytest.raises(SpawnRefused, match=names) as refused:
        await box.spawn(*argv, cwd=cwd)
    assert refused.value.exit_code == exit_code


async def test_a_number_is_used_once_in_a_guest(box: Conversation) -> None:
    spid = await box.spawn("true")
    await box.end(spid)
    with pytest.raises(ValueError, match="used before"):
        await box.guest.spawn(spid, ProcessSpec(argv=("true",), env={}))


async def test_only_its_own_disks_and_no_network_are_there(box: Conversation) -> None:
    done = await box.sh("ls /sys/class/net; ls /dev; mount | head -1")
    assert "lo" in done.text.split()
    assert not {"eth0", "ens3", "vda", "vdb"} & set(done.text.split())
    assert "overlay" in done.text


async def test_the_cpu_cannot_run_guests_of_its_own(box: Conversation) -> None:
    said = (await box.sh("cat /proc/cpuinfo")).text
    [flags] = [line.split() for line in said.splitlines() if line.startswith("flags")]
    assert "sse2" in flags
    assert {"svm", "vmx"} & set(flags) == set()
    if box.guest.info.accelerator == "tcg":
        assert {"erms", "fsrm"} & set(flags) == set()  # slow where they are emulated


async def test_a_slow_reader_stops_the_process_and_loses_nothing(box: Conversation) -> None:
    box.pump.cancel()
    await asyncio.wait({box.pump})
    size_bytes = 9 * MIB  # more than every buffer on the way holds
    spid = 999
    script = f"head -c {size_bytes} /dev/zero"
    spec = ProcessSpec(
        argv=("/bin/sh", "-c", script), env={"PATH": "/bin"}, output_bytes_max=size_bytes
    )
    await box.guest.spawn(spid, spec)
    await asyncio.sleep(1)
    received = 0
    async for event in box.guest.events():
        if isinstance(event, Output):
            received += len(event.data)
        elif event.spid == spid:
            break
    assert received == size_bytes
    box.pump = asyncio.create_task(box._pump())
    assert (await box.sh("echo again")).text == "again\n"
