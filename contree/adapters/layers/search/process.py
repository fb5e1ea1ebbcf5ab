"""Runs ripgrep, a child process for each chunk of files, and hands on what it prints.

The child gets an argument vector, an empty environment, no configuration and no standard input; it
is bounded in memory, and killed when enough was found or nobody waits any more. Files are read one
after the other, so its output comes in their order. What it prints is made of an image's contents:
each message is bounded before anybody decodes it.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from contree.app.images.image_search import CaseMode, SearchQuery
from contree.domain.errors import InvalidFieldError
from contree.programs import RIPGREP

MESSAGE_BYTES_MAX: Final = 4 * 1024**2
"""One line of output; a longer one is of a line with very many matches."""

MEMORY_BYTES_MAX: Final = 2 * 1024**3
"""Address space of one ripgrep."""

_READ_BYTES: Final = 256 * 1024
_COMPLAINT_BYTES_MAX: Final = 16 * 1024
_COMPLAINT_SHOWN_MAX: Final = 300
_FOUND_NOTHING: Final = 1
_CASE_FLAGS: Final = {
    CaseMode.SENSITIVE: "--case-sensitive",
    CaseMode.INSENSITIVE: "--ignore-case",
    CaseMode.SMART: "--smart-case",
}
_FLAGS: Final = (
    *("--no-config", "--no-ignore", "--hidden", "--no-follow", "--no-messages", "--no-mmap"),
    *("--json", "--threads=1"),
)


class OversizedMessage:
    """Stands for a message over MESSAGE_BYTES_MAX."""


class RipgrepDied:
    """ripgrep ended before it had read all files: out of memory, or a file was gone."""


Output = bytes | type[OversizedMessage] | type[RipgrepDied]


async def check_query(query: SearchQuery) -> None:
    """Let ripgrep look at patterns and globs. Raises InvalidFieldError, UnavailableError."""
    globs = [f"--glob={glob}" for glob in query.globs]
    arguments = [*_arguments(query), *globs, "--", "-"]
    async with _running(arguments, cwd=None, complains=True) as process:
        assert process.stderr is not None
        complaint = await process.stderr.read(_COMPLAINT_BYTES_MAX)
        # Whoever still writes after that much gets SIGPIPE or is killed on leaving.
        if not complaint and await process.wait() in (0, _FOUND_NOTHING):
            return
    lines = complaint.decode("utf-8", "replace").strip().splitlines() or ["ripgrep refuses it"]
    said = next((line for line in lines if line.startswith("error")), lines[0])
    is_glob = "parsing glob" in said
    problem = said.removeprefix("error: ")[:_COMPLAINT_SHOWN_MAX]
    if is_glob:
        raise InvalidFieldError("glob", f"is not a glob: {problem}")
    raise InvalidFieldError("pattern", f"is not a regular expression: {problem}")


async def search_files(
    query: SearchQuery, *, directory: Path, files: Sequence[bytes]
) -> AsyncGenerator[Output, None]:
    """Yield the messages of `rg --json` on `files`, in their order; names relative to `directory`.

    Closing the generator kills the child.
    """
    arguments: list[str | bytes] = [*_arguments(query), "--"]
    async with _running(arguments + list(files), cwd=directory) as process:
        assert process.stdout is not None
        async for line in _lines(process.stdout):
            yield line
        if await process.wait() not in (0, _FOUND_NOTHING):
            yield RipgrepDied


def _arguments(query: SearchQuery) -> list[str]:
    arguments = [*_FLAGS, _CASE_FLAGS[query.case]]
    if query.max_count is not None:
        arguments.append(f"--max-count={query.max_count}")
    if query.before:
        arguments.append(f"--before-context={query.before}")
    if query.after:
        arguments.append(f"--after-context={query.after}")
    return arguments + [f"--regexp={pattern}" for pattern in query.patterns]


@asynccontextmanager
async def _running(
    arguments: Sequence[str | bytes],
    *,
    cwd: Path | None,
    complains: bool = False,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ripgrep; with `complains` its standard error is piped, else its output.

    Raises UnavailableError when it is not installed.
    """
    process = await asyncio.create_subprocess_exec(
        RIPGREP.path(),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL if complains else asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if complains else asyncio.subprocess.DEVNULL,
        cwd=cwd,
        env={},
    )
    try:
        with suppress(ProcessLookupError, PermissionError):
            # Python cannot set it between fork and exec in a process with threads.
            limits = (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX)
            resource.prlimit(process.pid, resource.RLIMIT_AS, limits)
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await asyncio.shield(_ended(process))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait for a child that ends by itself; asyncio wants its pipe to be read to the end first."""
    pipe = process.stdout or process.stderr
    while pipe is not None and await pipe.read(_READ_BYTES):
        pass
    await process.wait()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes | type[OversizedMessage]]:
    """Yield lines; of one that is too long, only that it was there."""
    pending = bytearray()
    skipping = False
    while piece := await stream.read(_READ_BYTES):
        *whole, rest = piece.split(b"\n")
        for line in whole:
            if skipping or len(pending) + len(line) > MESSAGE_BYTES_MAX:
                yield OversizedMessage
            else:
                yield bytes(pending + line) if pending else line
            pending.clear()
            skipping = False
        if skipping or len(pending) + len(rest) > MESSAGE_BYTES_MAX:
            pending.clear()
            skipping = True
        else:
            pending += rest
