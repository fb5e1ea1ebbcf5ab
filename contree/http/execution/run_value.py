"""A run as the API shows it: the normalised request, and the result of its main process.

Bytes (output, initial stdin) are in the content store; `OutputReader` fetches them by digest and
keeps the few that polling clients ask for again and again.
"""

from __future__ import annotations

import contextlib
import logging
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from contree.app.content.project_content import ProjectContent
from contree.domain.errors import ContentDamagedError, NotFoundError
from contree.domain.instance import InstanceSpec, Stdin
from contree.domain.outcome import CapturedStream, ProcessOutcome, ResourceUsage
from contree.domain.stream_text import cut_at_character, represent

STDIN_ECHO_BYTES_MAX = 64 * 1024
"""Initial stdin is shown up to here; operations are polled, and the client knows what it sent."""

CACHE_BYTES_MAX = 8 * 1024**2
CACHE_ENTRY_BYTES_MAX = 1024**2

EMPTY_STREAM = {"value": "", "encoding": "ascii", "truncated": False}
GONE = EMPTY_STREAM | {"truncated": True}
"""A stream whose bytes are not there any more."""

_Key = tuple[UUID, str, bool]

_log = logging.getLogger(__name__)


class OutputReader:
    """Reads streams out of the content store; the latest stay in memory, by project and digest.

    Ask it only for what is still there (`content_gone`): the memory does not know.
    """

    def __init__(self, content: ProjectContent) -> None:
        self._content = content
        self._cached: OrderedDict[_Key, dict[str, Any]] = OrderedDict()
        self._cached_bytes = 0

    async def output(self, project_id: UUID, stream: CapturedStream) -> dict[str, Any]:
        """Return a StreamRepr; a stream that was cut ends at a whole UTF-8 character.

        Content that the store has lost shows as empty and truncated: the operation stays readable.
        """
        truncated = stream.dropped_bytes > 0
        if stream.size_bytes == 0:
            return EMPTY_STREAM | {"truncated": truncated}
        key = (project_id, stream.sha256, truncated)
        if (known := self._cached.get(key)) is not None:
            self._cached.move_to_end(key)
            return known
        try:
            data = await self._content.read_bytes(project_id, stream.sha256)
        except (NotFoundError, ContentDamagedError):
            _log.exception("output %s is lost in the content store", stream.sha256)
            return GONE
        value = stream_value(data, truncated=truncated)
        self._keep(key, value)
        return value

    async def stdin(self, project_id: UUID, stdin: Stdin | None) -> dict[str, Any]:
        """Return the initial standard input as it was sent, up to STDIN_ECHO_BYTES_MAX."""
        if stdin is None:
            return stdin_value(b"", encoding="ascii", close=True)
        key = (project_id, f"stdin:{stdin.encoding}:{stdin.sha256}", stdin.close)
        if (known := self._cached.get(key)) is not None:
            self._cached.move_to_end(key)
            return known
        data = b""
        if stdin.size_bytes:
            data = await self._beginning(project_id, stdin.sha256)
        value = stdin_value(data, encoding=stdin.encoding, close=stdin.close)
        self._keep(key, value)
        return value

    async def _beginning(self, project_id: UUID, sha256: str) -> bytes:
        """Return STDIN_ECHO_BYTES_MAX and one byte more, if there are so many."""
        data = b""
        async with contextlib.aclosing(self._content.read(project_id, sha256)) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > STDIN_ECHO_BYTES_MAX:
                    break
        return data[: STDIN_ECHO_BYTES_MAX + 1]

    def _keep(self, key: _Key, value: dict[str, Any]) -> None:
        size_bytes = len(value["value"])
        if size_bytes > CACHE_ENTRY_BYTES_MAX or key in self._cached:
            return
        self._cached[key] = value
        self._cached_bytes += size_bytes
        while self._cached_bytes > CACHE_BYTES_MAX:
            _, dropped = self._cached.popitem(last=False)
            self._cached_bytes -= len(dropped["value"])


def stream_value(data: bytes, *, truncated: bool) -> dict[str, Any]:
    """Return a StreamRepr of `data`; cut at a character boundary when it is `truncated`."""
    value, encoding = represent(cut_at_character(data) if truncated else data)
    return {"value": value, "encoding": encoding, "truncated": truncated}


def stdin_value(data: bytes, *, encoding: str, close: bool) -> dict[str, Any]:
    """Echo standard input under the label it was sent with; `ascii` may hold any UTF-8 text."""
    truncated = len(data) > STDIN_ECHO_BYTES_MAX
    if truncated:
        data = data[:STDIN_ECHO_BYTES_MAX]
    if encoding == "ascii":
        value = cut_at_character(data).decode("utf-8", "replace")
    else:
        value = b64encode(data).decode("ascii")
    return {"value": value, "encoding": encoding, "close": close, "truncated": truncated}


def gone_stdin_value(stdin: Stdin | None) -> dict[str, Any]:
    """Return the echo of a standard input whose bytes are not there any more."""
    if stdin is None or not stdin.size_bytes:
        return stdin_value(b"", encoding="ascii", close=stdin is None or stdin.close)
    return stdin_value(b"", encoding=stdin.encoding, close=stdin.close) | {"truncated": True}


def request_value(spec: InstanceSpec, stdin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the normalised request: every field, defaults filled, the image as a UUID."""
    return {
        "command": spec.command,
        "image": spec.image_id,
        "args": spec.args,
        "shell": spec.shell,
        "env": spec.env,
        "cwd": spec.cwd,
        "uid": spec.uid,
        "gid": spec.gid,
        "hostname": spec.hostname,
        "stdin": stdin,
        "timeout": spec.timeout_s,
        "truncate_output_at": spec.output_bytes_max,
        "disposable": spec.disposable,
        "preserve_env": spec.preserve_env,
        "preserve_cwd": spec.preserve_cwd,
        "files": {
            path: {
                "uuid": placement.file_id,
                "uid": placement.uid,
                "gid": placement.gid,
                "mode": f"{placement.mode:04o}",
                "unpack": placement.unpack,
            }
            for path, placement in spec.files.items()
        },
        "resources_limits": {"max_layer_bytes": spec.max_layer_bytes},
        "networking": {"enabled": spec.networking},
    }


def result_value(
    outcome: ProcessOutcome, *, stdout: Mapping[str, Any], stderr: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the InstanceResult of a process that has ended."""
    return {
        "resources": _resources(outcome.usage, duration_us=outcome.duration_us),
        "state": {
            "exit_code": outcome.exit_code,
            "signal": outcome.signal,
            "pid": outcome.pid,
            "timed_out": outcome.timed_out,
            "oom_killed": outcome.oom_killed,
            "core_dump": outcome.core_dumped,
            "continued": False,
            "stopped": False,
        },
        "stdout": stdout,
        "stderr": stderr,
    }


def _resources(usage: ResourceUsage, *, duration_us: int) -> dict[str, Any]:
    """The API's 16 counters, times in seconds. There is no billing here: `cost` is 0."""
    elapsed_s = duration_us / 1_000_000
    return {
        "block_input": usage.block_input_ops,
        "block_output": usage.block_output_ops,
        "cost": 0.0,
        "elapsed_time": elapsed_s,
        "involuntary_switches": usage.involuntary_ctx_switches,
        "max_rss": usage.max_rss_kb,
        "monotonic_time": elapsed_s,
        "page_faults": usage.minor_faults,
        "page_faults_io": usage.major_faults,
        "shared_memory": usage.shared_memory,
        "signals": usage.signals_received,
        "swaps": usage.swaps,
        "system_cpu_time": usage.sys_time_us / 1_000_000,
        "unshared_memory": usage.unshared_memory,
        "user_cpu_time": usage.user_time_us / 1_000_000,
        "voluntary_switches": usage.voluntary_ctx_switches,
    }
