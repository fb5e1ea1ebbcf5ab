"""QEMU processes as the kernel shows them: found by command line, watched, killed and reaped.

libvirt starts QEMU as a daemon, so a QEMU outlives its parent and is adopted by the nearest
subreaper: this process (`adopt_orphans`), which must then reap it, or libvirt waits on a zombie for
some 40 seconds each time. Only QEMUs that name our runtime directory, or that we adopted, are ever
touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

OOM_SCORE_ADJ = 900
"""Of 1,000, proc(5): a guest can be run again; PostgreSQL and the worker have what others need."""

_PROC = Path("/proc")
_KIB = 1024
_QEMU_COMM_PREFIX = "qemu-system"
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_SYS_PIDFD_GETFD = 438  # asm/unistd.h; Python has no name for it


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """The fields of /proc/PID/stat that matter here; proc(5)."""

    pid: int
    comm: str
    state: str
    parent_pid: int
    session_id: int

    @property
    def is_qemu(self) -> bool:
        return self.comm.startswith(_QEMU_COMM_PREFIX)


class QemuProcess:
    """One live QEMU, held by a pidfd, so that its number cannot be mistaken for another's.

    exited         set once it is gone; `killed` then says that a signal ended it
    on_exit        called on the event loop at that moment
    """

    held: ClassVar[set[int]] = set()
    """Pids that a QemuProcess will reap itself."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.exited = asyncio.Event()
        self.killed = False
        self.on_exit: Callable[[], None] | None = None
        self._fd = fd
        self._killing = False
        self._sockets: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._reap)
        self.held.add(pid)

    @classmethod
    def find(cls, marker: str, *, pid_file: Path | None = None) -> QemuProcess | None:
        """Hold the QEMU whose command line contains `marker`; None when there is none.

        `pid_file` may name it; then the host's processes need not be searched.
        """
        for pid in _recorded_pid(pid_file, marker) or qemu_pids(marker):
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            if marker in _command_line(pid):  # still the same process, now that it is held
                return cls(pid, fd)
            os.close(fd)
        return None

    def memory_bytes(self) -> tuple[int, int]:
        """Return its private and its shared memory that is in use; zeros once it is gone."""
        try:
            text = (_PROC / str(self.pid) / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return 0, 0
        sizes = dict(line.split(":", 1) for line in text.splitlines())
        # A zombie has no such lines.
        anonymous, shared = (sizes.get(name, "0").split()[0] for name in ("RssAnon", "RssShmem"))
        return int(anonymous) * _KIB, int(shared) * _KIB

    def restrain(self) -> None:
        """Let it die before anything else when the host's memory is short, and leave no core file:
        that would be the guest's memory, secrets too.

        A QEMU of a libvirt daemon may be another user's: it stays as the daemon made it.
        """
        with contextlib.suppress(PermissionError, FileNotFoundError, ProcessLookupError):
            (_PROC / str(self.pid) / "oom_score_adj").write_text(str(OOM_SCORE_ADJ))
            resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))

    def kill(self) -> None:
        """SIGKILL it, at once; nothing happens when it is gone.

        Nobody hears it hang up before it is reaped: libvirt would find a zombie and sleep 200 ms
        before it looks again, with a thread that is its only one for guests that end.
        """
        if self._fd >= 0 and not self._killing:
            self._killing = True
            self._sockets = _sockets_of(self.pid, self._fd)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def close(self) -> None:
        """Stop watching; the process stays as it is."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self.held.discard(self.pid)
        while self._sockets:
            os.close(self._sockets.pop())

    def _reap(self) -> None:
        # A QEMU of a libvirt daemon is not ours to wait for: ChildProcessError, and it is gone too.
        with contextlib.suppress(ChildProcessError):
            ended = os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
            self.killed = ended is not None and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        self.close()
        self.exited.set()
        if self.on_exit is not None:
            self.on_exit()


def _sockets_of(pid: int, pidfd: int) -> list[int]:
    """Return descriptors of ours for the sockets of a process, so that they outlive it.

    As many as the kernel lets us have: none of a process that we may not trace; pidfd_getfd(2).
    """
    numbers = []
    try:
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if str(entry.readlink()).startswith("socket:"):
                    numbers.append(int(entry.name))
    except OSError:  # it is gone, or not ours
        return []
    libc = ctypes.CDLL(None)
    taken = [libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0) for number in numbers]
    return [fd for fd in taken if fd >= 0]


def adopt_orphans() -> None:
    """Make this process the parent of QEMUs whose own parent is gone; prctl(2).

    A host's PID 1 may reap late (containers) or be this process itself. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def reap_adopted() -> int:
    """Reap the dead QEMUs that this process adopted; return how many.

    Those in our own session were started by libvirt without daemonising, and libvirt waits for
    them itself.
    """
    try:
        # Called often: ask the kernel whether any child is dead before searching for which.
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return 0
    except ChildProcessError:
        return 0
    own_pid, own_session, reaped = os.getpid(), os.getsid(0), 0
    for process in processes():
        adopted = process.parent_pid == own_pid and process.session_id != own_session
        if process.pid in QemuProcess.held:
            continue
        if process.state == "Z" and process.is_qemu and adopted:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
                reaped += 1
    return reaped


def kill_qemus(marker: str) -> int:
    """SIGKILL every QEMU whose command line contains `marker`; return how many there were."""
    killed = 0
    for pid in qemu_pids(marker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


def qemu_pids(marker: str) -> list[int]:
    """Return the pids of the live QEMUs whose command line contains `marker`."""
    return [p.pid for p in processes() if p.is_qemu and marker in _command_line(p.pid)]


def _recorded_pid(pid_file: Path | None, marker: str) -> list[int]:
    """Return the pid in `pid_file` if that is a process with `marker`; nothing otherwise."""
    if pid_file is None:
        return []
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return []
    return [pid] if marker in _command_line(pid) else []


def processes() -> Iterator[ProcessState]:
    """Yield what runs on this host, as far as we may see it."""
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        # comm may contain blanks and parentheses: it ends at the last one.
        comm, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :]
        fields = rest.split()
        yield ProcessState(
            pid=int(entry.name),
            comm=comm,
            state=fields[0],
            parent_pid=int(fields[1]),
            session_id=int(fields[3]),
        )


def _command_line(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
