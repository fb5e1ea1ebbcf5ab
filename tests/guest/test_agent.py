"""The sanitized agent as PID 1 of a private namespace, driven over socket pairs."""

import hashlib
import itertools
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.messages import (
    AgentState,
    Captured,
    Configured,
    Exited,
    FileOk,
    GuestError,
    GuestErrorCode,
    Output,
    Signalled,
    Spawned,
    SpawnStage,
    StdinCredit,
    Stream,
    Truncated,
)
from tests.guest.conftest import Hosted
from tests.guest.raw_guest import configuration
from tests.guest.session import PATIENCE_S, spawn_request
from tests.support.guest_build import make_guest


def place(
    agent: Hosted, path: Path | bytes, content: bytes, *, mode: int = 0o644, size: int | None = None
) -> None:
    raw = os.fsencode(path)
    size = len(content) if size is None else size
    agent.send(commands.file_begin(path=raw, uid=3, gid=4, mode=mode, size=size))
    for at in range(0, len(content), commands.MAX_DATA_CHUNK_BYTES):
        agent.send(commands.file_data(content[at : at + commands.MAX_DATA_CHUNK_BYTES]))
    agent.send(commands.file_end())


def wait_until_gone(agent: Hosted, word: bytes, of_each_process: str) -> None:
    """Look, each time with a process of its own from spid 2, until no line is `word`."""
    deadline = time.monotonic() + PATIENCE_S
    for spid in itertools.count(2):
        # A process that ends while it is looked at is no failure.
        if word not in agent.shell(spid, f"{of_each_process} 2>/dev/null; true").splitlines():
            return
        assert time.monotonic() < deadline, f"{word!r} is still there"


def test_the_c_tests_and_the_fuzzer_pass_under_sanitizers(built: Path) -> None:
    result = make_guest("test")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_released_agent_is_static_and_small(built: Path) -> None:
    agent = built / "agent"
    assert agent.stat().st_size <= 1 << 20
    assert b"/lib64/ld-linux" not in agent.read_bytes()


def test_ready_tells_how_far_the_guest_is(start: Callable[[], Hosted]) -> None:
    agent = start()
    assert agent.hello().state is AgentState.BLANK
    agent.send(commands.configure(configuration(0)))
    agent.expect(Configured)
    ready = agent.hello()
    assert ready.state is AgentState.CONFIGURED
    assert ready.agent_pid == 1
    assert ready.machine == os.uname().machine


def test_nothing_runs_and_no_file_is_placed_before_configure(
    start: Callable[[], Hosted], tmp_path: Path
) -> None:
    agent = start()
    assert agent.refused(1, "/bin/true").stage is SpawnStage.STATE
    place(agent, tmp_path / "f", b"x")
    assert agent.expect(GuestError).code is GuestErrorCode.STATE
    assert not (tmp_path / "f").exists()
    agent.send(commands.capture(1 << 20))
    assert agent.expect(GuestError).request_type == commands.HostFrameType.CAPTURE


def test_configure_is_accepted_once(agent: Hosted) -> None:
    agent.send(commands.configure(configuration(0)))
    assert agent.expect(GuestError).code is GuestErrorCode.STATE


def test_everything_may_be_sent_in_one_write(start: Callable[[], Hosted]) -> None:
    agent = start()
    agent.send(
        commands.hello(),
        commands.configure(configuration(0)),
        commands.spawn(spawn_request(1, "cat", stdin_open=True)),
        commands.stdin(1, b"early"),
        commands.stdin_eof(1),
    )
    assert agent.expect(Exited).code == 0
    assert agent.output(1) == b"early"


def test_all_256_exit_statuses_arrive(agent: Hosted) -> None:
    codes = [agent.run(n + 1, "/bin/sh", "-c", f"exit {n}").code for n in range(256)]
    assert codes == list(range(256))


@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 13, 15, 34, 64])
def test_a_process_killed_by_a_signal_says_which(agent: Hosted, number: int) -> None:
    agent.spawn(1, "/bin/sleep", "100")
    agent.expect(Spawned)
    agent.send(commands.signal(1, number))
    assert agent.expect(Signalled).signal == number
    exited = agent.expect(Exited)
    assert (exited.code, exited.signal, exited.timed_out) == (-1, number, False)


def test_a_signal_reaches_the_whole_group(agent: Hosted) -> None:
    agent.spawn(1, "/bin/sh", "-c", "sleep 100 & sleep 100 & echo up; wait")
    agent.expect(Output)
    agent.send(commands.signal(1, signal.SIGKILL))
    agent.expect(Exited)
    wait_until_gone(agent, b"sleep", "cat /proc/[0-9]*/comm")


def test_a_signal_to_no_live_process_is_refused(agent: Hosted) -> None:
    agent.run(1, "/bin/true")
    for spid in (1, 2):
        agent.send(commands.signal(spid, 15))
        error = agent.expect(GuestError)
        assert (error.code, error.spid) == (GuestErrorCode.NO_PROCESS, spid)


def test_a_timeout_kills_the_group_and_says_so(agent: Hosted) -> None:
    script = "trap '' TERM; sleep 100 & echo begun; sleep 100"
    for spid, timeout_ms in ((1001, 300), (1002, 3_000), (1003, 30_000)):
        exited = agent.run(spid, "/bin/sh", "-c", script, timeout_ms=timeout_ms)
        assert (exited.code, exited.signal, exited.timed_out) == (-1, 9, True)
        assert exited.duration_us >= timeout_ms * 1000
        if said := agent.output(spid):  # else the machine had no time for it to begin
            break
    assert said == b"begun\n"
    wait_until_gone(agent, b"sleep", "cat /proc/[0-9]*/comm")


def test_a_process_that_is_in_time_is_not_timed_out(agent: Hosted) -> None:
    assert not agent.run(1, "/bin/true", timeout_ms=60_000).timed_out


def test_output_of_both_streams_is_kept_apart_and_in_order(agent: Hosted) -> None:
    agent.run(1, "/bin/sh", "-c", "for i in $(seq 500); do echo $i; echo e$i >&2; done")
    numbers = [str(n).encode() for n in range(1, 501)]
    assert agent.output(1).split() == numbers
    assert agent.output(1, Stream.STDERR).split() == [b"e" + n for n in numbers]


def test_output_over_the_cap_is_counted_and_the_process_not_blocked(agent: Hosted) -> None:
    exited = agent.run(1, "/bin/sh", "-c", "head -c 3000000 /dev/zero", stdout_cap_bytes=70_000)
    assert exited.code == 0
    assert agent.output(1) == bytes(70_000)
    truncated = [frame for frame in agent.frames if isinstance(frame, Truncated)]
    assert truncated == [Truncated(spid=1, stream=Stream.STDOUT, emitted=70_000, dropped=2_930_000)]
    assert agent.frames.index(truncated[0]) < agent.frames.index(exited)


def test_output_of_exactly_the_cap_is_not_truncated(agent: Hosted) -> None:
    agent.run(1, "/bin/sh", "-c", "head -c 70000 /dev/zero", stdout_cap_bytes=70_000)
    assert not [frame for frame in agent.frames if isinstance(frame, Truncated)]


def test_a_cap_of_zero_keeps_nothing(agent: Hosted) -> None:
    agent.run(1, "/bin/echo", "hi", stdout_cap_bytes=0)
    assert agent.output(1) == b""
    assert [frame.dropped for frame in agent.frames if isinstance(frame, Truncated)] == [3]


def test_a_daemon_that_keeps_the_pipe_delays_exit_only_by_the_grace(agent: Hosted) -> None:
    started = time.monotonic()
    agent.run(1, "/bin/sh", "-c", "echo one; (sleep 600; echo late) & exit 7")
    assert time.monotonic() - started < 300  # the daemon's 600 s were not waited for
    assert agent.output(1) == b"one\n"


def test_large_output_is_not_lost_when_the_host_reads_late(agent: Hosted) -> None:
    agent.spawn(1, "/bin/sh", "-c", "head -c 1000000 /dev/zero", stdout_cap_bytes=1 << 20)
    time.sleep(0.5)  # the process ends or blocks; the grace passes with the queue full
    agent.expect(Exited)
    assert agent.output(1) == bytes(1_000_000)


def test_exit_is_the_last_frame_of_its_spid(agent: Hosted) -> None:
    for spid in range(1, 30):
        agent.spawn(spid, "/bin/sh", "-c", "echo a; echo b >&2; sleep 0.01; echo c")
    for _ in range(1, 30):
        agent.expect(Exited)
    for spid in range(1, 30):
        mine = [frame for frame in agent.frames if getattr(frame, "spid", 0) == spid]
        assert isinstance(mine[0], Spawned)
        assert isinstance(mine[-1], Exited)
        assert agent.output(spid) == b"a\nc\n"


def test_spid_65_is_refused_while_64_live_and_accepted_after(agent: Hosted) -> None:
    for spid in range(1, 65):
        agent.spawn(spid, "/bin/sleep", "100")
        agent.expect(Spawned)
    failed = agent.refused(65, "/bin/true")
    assert (failed.stage, failed.errno) == (SpawnStage.SLOT, 11)
    agent.send(commands.signal(64, 9))
    agent.expect(Exited)
    assert agent.run(65, "/bin/true").code == 0


def test_a_spid_in_use_is_refused(agent: Hosted) -> None:
    agent.spawn(1, "/bin/sleep", "100")
    agent.expect(Spawned)
    failed = agent.refused(1, "/bin/true")
    assert (failed.stage, failed.errno) == (SpawnStage.SLOT, 17)


@pytest.mark.parametrize(
    ("argv", "changes", "stage", "errno"),
    [
        (["/no/such"], {}, SpawnStage.EXEC, 2),
        (["no-such-command"], {}, SpawnStage.EXEC, 2),
        ([""], {}, SpawnStage.EXEC, 2),
        (["/etc/passwd"], {}, SpawnStage.EXEC, 13),
        (["/"], {}, SpawnStage.EXEC, 13),
        (["/bin/true"], {"cwd": b"/etc/passwd"}, SpawnStage.CWD, 20),
        (["/bin/true", "x" * 200_000], {}, SpawnStage.EXEC, 7),
        (["true"], {"env": [b"PATH=/nowhere"]}, SpawnStage.EXEC, 2),
    ],
)
def test_a_failed_spawn_says_where_and_why(
    agent: Hosted, argv: list[str], changes: dict[str, object], stage: SpawnStage, errno: int
) -> None:
    failed = agent.refused(1, *argv, **changes)
    assert (failed.stage, failed.errno) == (stage, errno)
    assert agent.run(1, "/bin/true").code == 0  # the spid is free again


def test_whoever_runs_may_open_its_own_streams_anew(agent: Hosted) -> None:
    script = "read line < /dev/stdin; echo $line > /dev/stdout; echo err > /dev/stderr"
    agent.spawn(1, "/bin/sh", "-c", script, uid=1000, gid=1001, stdin_open=True)
    agent.expect(Spawned)
    agent.send(commands.stdin(1, b"in\n"))
    assert agent.expect(Exited).code == 0
    assert (agent.output(1), agent.output(1, Stream.STDERR)) == (b"in\n", b"err\n")


def test_home_is_added_where_none_was_given(agent: Hosted) -> None:
    given = [b"A=1"]
    agent.run(1, "/usr/bin/env", env=given)
    agent.run(2, "/usr/bin/env", env=given, home=False)
    agent.run(3, "/usr/bin/env", env=[b"HOME=", *given])
    agent.run(4, "/usr/bin/env", env=given, uid=4_000_000_000)
    root = pwd.getpwuid(0).pw_dir.encode()
    assert [agent.output(spid) for spid in (1, 2, 3, 4)] == [
        b"A=1\nHOME=" + root + b"\n",
        b"A=1\n",
        b"HOME=\nA=1\n",
        b"A=1\nHOME=/\n",
    ]


def test_path_lookup_uses_the_environment_given(agent: Hosted, tmp_path: Path) -> None:
    for folder, mode in (("first", 0o644), ("second", 0o755)):
        tool = tmp_path / folder / "tool"
        tool.parent.mkdir()
        tool.write_text(f"#!/bin/sh\necho {folder}\n")
        tool.chmod(mode)
    path = f"PATH={tmp_path}/first:{tmp_path}/second".encode()
    assert agent.run(1, "tool", env=[path]).code == 0
    assert agent.output(1) == b"second\n"
    failed = agent.refused(2, "tool", env=[f"PATH={tmp_path}/first".encode()])
    assert failed.errno == 13
    assert agent.run(3, "true", env=[]).code == 0  # the default path


def test_a_script_without_interpreter_line_runs_in_the_shell(agent: Hosted, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo $0 $1 $#\n")
    script.chmod(0o755)
    assert agent.run(1, str(script), "a b").code == 0
    assert agent.output(1) == f"{script} a b 1\n".encode()


def test_a_process_starts_clean(agent: Hosted, tmp_path: Path) -> None:
    cwd = tmp_path / "made" / "on the way"
    script = """
umask; pwd; id -u; id -g; id -G; echo $0; ls /proc/self/fd | wc -l
cat /proc/self/status | grep -E '^Sig(Blk|Ign|Cgt)' | tr -d '\\n'; echo
ps -o pid=,sid=,pgid= -p $$ | tr -s ' '; env | sort | grep -v -E '^(_|PWD|SHLVL|OLDPWD)='
"""
    output = agent.shell(
        1, script, cwd=os.fsencode(cwd), uid=1234, gid=4321, env=[b"PATH=/usr/bin:/bin", b"X=1 2"]
    )
    lines = output.decode().splitlines()
    assert lines[:6] == ["0022", str(cwd), "1234", "4321", "4321", "/bin/sh"]
    assert lines[6] == "4"  # 0, 1, 2 and the one that ls has opened on the folder
    # Signals 32 and 33 are the C library's own: it lets nobody reset what this test inherited.
    library_s_own = 0b11 << 31
    masks = [int(mask, 16) & ~library_s_own for mask in re.findall("[0-9a-f]{16}", lines[7])]
    assert masks == [0, 0, 0]
    pid, sid, pgid = lines[8].split()
    assert pid == sid == pgid
    assert lines[9:] == ["HOME=/", "PATH=/usr/bin:/bin", "X=1 2"]
    assert cwd.stat().st_uid == 0
    assert cwd.parent.stat().st_mode & 0o777 == 0o755


def test_stdin_is_empty_unless_opened(agent: Hosted) -> None:
    assert agent.run(1, "cat").code == 0
    agent.send(commands.stdin(1, b"x"))
    assert agent.expect(GuestError).code is GuestErrorCode.NO_PROCESS
    agent.spawn(2, "/bin/sleep", "100")
    agent.expect(Spawned)
    agent.send(commands.stdin(2, b"x"))
    assert agent.expect(GuestError).code is GuestErrorCode.STDIN_CLOSED


def test_a_large_stdin_passes_within_the_credit(agent: Hosted) -> None:
    content = os.urandom(1 << 20)
    agent.spawn(1, "sha256sum", stdin_open=True)
    agent.expect(Spawned)
    credit, at = commands.STDIN_WINDOW_BYTES, 0
    while at < len(content):
        chunk = content[at : at + credit]
        if chunk:
            agent.send(commands.stdin(1, chunk))
            at += len(chunk)
            credit -= len(chunk)
        credit += agent.expect(StdinCredit).count
    agent.send(commands.stdin_eof(1))
    agent.expect(Exited)
    assert agent.output(1).split()[0] == hashlib.sha256(content).hexdigest().encode()


def test_a_process_that_never_reads_blocks_nobody(agent: Hosted) -> None:
    agent.spawn(1, "/bin/sleep", "100", stdin_open=True)
    agent.expect(Spawned)
    agent.send(commands.stdin(1, bytes(65_536)))
    taken = agent.expect(StdinCredit).count  # what the pipe itself holds
    assert agent.run(2, "/bin/echo", "free").code == 0
    agent.send(commands.stdin(1, bytes(taken)), commands.stdin(1, bytes(65_536)))
    error = agent.expect(GuestError)
    assert (error.code, error.spid) == (GuestErrorCode.LIMIT, 1)
    assert agent.run(3, "/bin/true").code == 0


def test_stdin_closed_by_the_process_is_reported(agent: Hosted) -> None:
    agent.spawn(1, "/bin/sh", "-c", "exec <&-; echo closed; sleep 100", stdin_open=True)
    agent.expect(Output)
    for _ in range(2):
        agent.send(commands.stdin(1, b"x"))
        error = agent.expect(GuestError)
        assert (error.code, error.spid) == (GuestErrorCode.STDIN_CLOSED, 1)


def test_orphans_are_reaped(agent: Hosted) -> None:
    agent.shell(1, "for i in $(seq 50); do (sleep 0.01 &) ; done")
    wait_until_gone(agent, b"sleep", "cat /proc/[0-9]*/comm")  # as a zombie, too


def test_descriptors_do_not_leak(agent: Hosted) -> None:
    count = "ls /proc/1/fd | wc -l"
    before = agent.shell(1, count)
    for spid in range(2, 60):
        if spid % 2:
            agent.run(spid, "/bin/echo", "x", stdin_open=True)
        else:
            agent.refused(spid, "/no/such", stdin_open=True)
    place(agent, b"/proc/nowhere/x", b"x")
    agent.expect(GuestError)
    assert agent.shell(60, count) == before


def test_a_file_is_placed_with_owner_mode_and_parents(agent: Hosted, tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file"
    content = os.urandom(200_000)
    place(agent, target, content, mode=0o4751)
    assert agent.expect(FileOk).size == len(content)
    status = target.stat()
    assert target.read_bytes() == content
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (3, 4, 0o4751)
    assert (target.parent.stat().st_uid, target.parent.stat().st_mode & 0o7777) == (0, 0o755)


def test_a_file_replaces_a_link_and_does_not_follow_it(agent: Hosted, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "link").symlink_to("victim")
    place(agent, tmp_path / "link", b"new")
    agent.expect(FileOk)
    assert (tmp_path / "victim").read_text() == "untouched"
    assert not (tmp_path / "link").is_symlink()


def test_a_file_cannot_replace_a_directory(agent: Hosted, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    place(agent, tmp_path / "d", b"x")
    error = agent.expect(GuestError)
    assert (error.code, error.errno) == (GuestErrorCode.IO, 21)
    assert (tmp_path / "d").is_dir()


@pytest.mark.parametrize("sent", [b"", b"12", b"1234"])
def test_a_file_of_another_size_than_announced_is_not_left_behind(
    agent: Hosted, tmp_path: Path, sent: bytes
) -> None:
    place(agent, tmp_path / "f", sent, size=3)
    assert agent.expect(GuestError).code is GuestErrorCode.BAD_FRAME
    assert not (tmp_path / "f").exists()


def test_a_full_disk_is_an_error_and_leaves_no_partial_file(agent: Hosted, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    agent.shell(1, f"mount -t tmpfs -o size=64k none {disk}")
    place(agent, disk / "big", bytes(300_000))
    error = agent.expect(GuestError)
    assert (error.code, error.errno) == (GuestErrorCode.IO, 28)
    assert agent.shell(2, f"ls -A {disk}; umount {disk}") == b""
    place(agent, tmp_path / "small", b"x")
    agent.expect(FileOk)


def test_malformed_frames_are_refused_and_harm_nothing(agent: Hosted) -> None:
    agent.send(b"\x00\x00\x00\x00\x99\x00\x00\x00")
    assert agent.expect(GuestError).request_type == 0x99
    agent.send(b"\x01\x00\x00\x00\x06\x00\x00\x00x")
    assert agent.expect(GuestError).code is GuestErrorCode.BAD_FRAME
    assert agent.run(1, "/bin/true").code == 0


def test_lost_framing_is_told_and_processes_go_on(agent: Hosted) -> None:
    agent.spawn(1, "/bin/sh", "-c", "sleep 0.2; echo alive")
    agent.expect(Spawned)
    agent.send(b"\xff" * 64)
    error = agent.expect(GuestError)
    assert (error.code, error.request_type) == (GuestErrorCode.BAD_FRAME, 0)
    assert agent.expect(Exited).code == 0
    assert agent.output(1) == b"alive\n"


def test_capture_ends_what_is_left_and_reports_it(agent: Hosted) -> None:
    agent.spawn(1, "/bin/sh", "-c", "trap '' TERM; echo up; sleep 100")
    agent.expect(Output)
    agent.send(commands.capture(1 << 20))
    exited = agent.expect(Exited)
    assert exited.signal == 9
    agent.expect(Captured)
    assert agent.refused(2, "/bin/true").stage is SpawnStage.STATE
    assert agent.hello().state is AgentState.CAPTURED
