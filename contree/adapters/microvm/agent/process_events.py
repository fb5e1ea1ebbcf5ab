"""Frames about processes as the use case's events. A guest's numbers are clamped, not believed."""

from __future__ import annotations

from contree.adapters.microvm.agent import messages
from contree.app.guest.microvm import Exited, Output, Stream, Truncated
from contree.domain.outcome import ResourceUsage

COUNT_MAX = 2**53 - 1
"""What JSON readers hold exactly; larger claims are cut to it, negative ones to 0."""

_STREAMS = {messages.Stream.STDOUT: Stream.STDOUT, messages.Stream.STDERR: Stream.STDERR}


def output_event(frame: messages.Output) -> Output:
    return Output(spid=frame.spid, stream=_STREAMS[frame.stream], data=frame.data)


def truncated_event(frame: messages.Truncated) -> Truncated:
    return Truncated(
        spid=frame.spid,
        stream=_STREAMS[frame.stream],
        emitted_bytes=_count(frame.emitted),
        dropped_bytes=_count(frame.dropped),
    )


def exited_event(frame: messages.Exited) -> Exited:
    usage = frame.usage
    return Exited(
        spid=frame.spid,
        pid=frame.pid,
        exit_code=frame.code,
        signal=frame.signal,
        core_dumped=frame.core_dumped,
        timed_out=frame.timed_out,
        oom_killed=frame.oom_killed,
        duration_us=_count(frame.duration_us),
        usage=ResourceUsage(
            user_time_us=_count(usage.user_cpu_us),
            sys_time_us=_count(usage.system_cpu_us),
            max_rss_kb=_count(usage.maxrss_kib),
            shared_memory=_count(usage.ixrss),
            unshared_memory=_count(usage.idrss),
            swaps=_count(usage.nswap),
            minor_faults=_count(usage.minflt),
            major_faults=_count(usage.majflt),
            voluntary_ctx_switches=_count(usage.nvcsw),
            involuntary_ctx_switches=_count(usage.nivcsw),
            block_input_ops=_count(usage.inblock),
            block_output_ops=_count(usage.oublock),
            ipc_msgs_sent=_count(usage.msgsnd),
            ipc_msgs_received=_count(usage.msgrcv),
            signals_received=_count(usage.nsignals),
        ),
    )


def _count(claimed: int) -> int:
    return max(0, min(claimed, COUNT_MAX))
