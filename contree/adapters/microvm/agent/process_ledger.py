"""What each process in the guest may still say: the bounds that a flooding guest runs into.

Pure. A frame that is not due is a breach of docs/guest-protocol.md (GuestProtocolError): output of
an unknown process, more output than its cap, stdin credit that was never taken, a second end. So
the sum of what a guest can make us handle is known when a process is spawned.
"""

from __future__ import annotations

from contree.adapters.microvm.agent import messages
from contree.adapters.microvm.agent.commands import STDIN_WINDOW_BYTES
from contree.adapters.microvm.agent.frames import GuestProtocolError
from contree.adapters.microvm.agent.messages import GuestErrorCode, Stream


class LiveProcess:
    """One process between SPAWN and EXITED.

    stdin_window_bytes   may be sent now
    stdin_open           the host may still write
    """

    def __init__(self, spid: int, *, output_bytes_max: int, stdin_open: bool) -> None:
        self.spid = spid
        self.stdin_open = stdin_open
        self.stdin_window_bytes = STDIN_WINDOW_BYTES
        self.stdin_frames_sent = 0
        self._output_left = {
            Stream.STDOUT: output_bytes_max,
            Stream.STDERR: output_bytes_max,
        }
        self._truncated: set[Stream] = set()
        self._stdin_errors = 0

    def sent_stdin(self, size_bytes: int) -> None:
        """A STDIN frame went out; `size_bytes` is 0 for STDIN_EOF."""
        self.stdin_window_bytes -= size_bytes
        self.stdin_frames_sent += 1

    def take_output(self, frame: messages.Output) -> None:
        if frame.stream in self._truncated:
            raise GuestProtocolError(f"OUTPUT of {frame.stream.name} after its TRUNCATED")
        self._output_left[frame.stream] -= len(frame.data)
        if self._output_left[frame.stream] < 0:
            raise GuestProtocolError(f"more {frame.stream.name} than its cap")

    def take_truncated(self, frame: messages.Truncated) -> None:
        if frame.stream in self._truncated:
            raise GuestProtocolError(f"second TRUNCATED of {frame.stream.name}")
        self._truncated.add(frame.stream)

    def take_credit(self, frame: messages.StdinCredit) -> None:
        self.stdin_window_bytes += frame.count
        if self.stdin_window_bytes > STDIN_WINDOW_BYTES:
            raise GuestProtocolError("STDIN_CREDIT for bytes that were never sent")

    def take_stdin_error(self) -> None:
        # At most one for each frame, and one unasked when bytes were waiting.
        self._stdin_errors += 1
        if self._stdin_errors > self.stdin_frames_sent + 1:
            raise GuestProtocolError("ERROR about STDIN that was never sent")
        self.stdin_open = False


class ProcessLedger:
    """The processes of one guest. `starting` ones may not speak yet."""

    def __init__(self) -> None:
        self._starting: dict[int, LiveProcess] = {}
        self._live: dict[int, LiveProcess] = {}
        self._used: set[int] = set()
        self._late_stdin_frames = 0  # sent to processes that had already ended

    def start(self, spid: int, *, output_bytes_max: int, stdin_open: bool) -> LiveProcess:
        """Note a SPAWN that is about to be sent. Raises ValueError for a number used before."""
        if spid in self._used:
            raise ValueError(f"spid={spid} was used before in this guest")
        self._used.add(spid)
        process = LiveProcess(spid, output_bytes_max=output_bytes_max, stdin_open=stdin_open)
        self._starting[spid] = process
        return process

    def spawned(self, spid: int) -> None:
        process = self._starting.pop(spid, None)
        if process is None:
            raise GuestProtocolError(f"SPAWNED for process {spid}, which was not asked for")
        self._live[spid] = process

    def spawn_failed(self, spid: int) -> None:
        if self._starting.pop(spid, None) is None:
            raise GuestProtocolError(f"SPAWN_FAILED for process {spid}, which was not asked for")
        self._used.discard(spid)

    def find(self, spid: int) -> LiveProcess | None:
        """Return the live process `spid`, or None."""
        return self._live.get(spid)

    def speaking(self, spid: int) -> LiveProcess:
        """Return the live process that a frame of the guest names. Raises GuestProtocolError."""
        process = self._live.get(spid)
        if process is None:
            raise GuestProtocolError(f"a frame about process {spid}, which does not run")
        return process

    def exited(self, spid: int) -> LiveProcess:
        process = self.speaking(spid)
        del self._live[spid]
        self._late_stdin_frames += process.stdin_frames_sent
        return process

    def stdin_error(self, frame: messages.GuestError) -> LiveProcess | None:
        """Take ERROR about STDIN or STDIN_EOF; return its process while that lives."""
        if frame.code not in (GuestErrorCode.STDIN_CLOSED, GuestErrorCode.NO_PROCESS):
            raise GuestProtocolError(f"ERROR {frame.code.name} about STDIN: {frame.message}")
        process = self._live.get(frame.spid)
        if process is not None:
            process.take_stdin_error()
            return process
        # It ended while the frame was on its way.
        self._late_stdin_frames -= 1
        if self._late_stdin_frames < 0:
            raise GuestProtocolError(f"ERROR about STDIN of process {frame.spid}, never sent")
        return None
