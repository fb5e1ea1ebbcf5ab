"""The published contree-mcp as an agent's host has it, and what an agent does through it.

    async with over_stdio(url, token, home) as agent   a process that the host starts and pipes to
    async with over_http(url, token, home) as agent    one that listens, with the session over HTTP

`url` is that of the API, `home` the user's, `environment` goes to the process. A session belongs to
the task that opened it, as its library wants.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from pydantic import AnyUrl

CONTREE_MCP = Path(sys.executable).parent / "contree-mcp"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


class Agent:
    """What an agent can do through one MCP session."""

    def __init__(self, session: ClientSession) -> None:
        self.session = session

    async def tools(self) -> set[str]:
        return {tool.name for tool in (await self.session.list_tools()).tools}

    async def call(self, tool: str, **arguments: Any) -> Any:
        """Return what the tool returns, read from its text as agents do."""
        answer = await self.session.call_tool(tool, arguments)
        assert not answer.isError, answer.content
        text = "".join(getattr(part, "text", "") for part in answer.content)
        return json.loads(text)

    async def refusal(self, tool: str, **arguments: Any) -> str:
        answer = await self.session.call_tool(tool, arguments)
        assert answer.isError, answer.content
        return "".join(getattr(part, "text", "") for part in answer.content)

    async def run(self, command: str, **arguments: Any) -> Any:
        arguments.setdefault("image", "tag:busybox:latest")
        return await self.call("run", command=command, **arguments)

    async def read(self, uri: str) -> str:
        """Return the text of the resource `contree://URI`."""
        answer = await self.session.read_resource(AnyUrl(f"contree://{uri}"))
        return "".join(getattr(part, "text", "") for part in answer.contents)


@asynccontextmanager
async def over_stdio(
    url: str, token: str, home: Path, *, mcp: Path = CONTREE_MCP, **environment: str
) -> AsyncIterator[Agent]:
    program = StdioServerParameters(
        command=str(mcp),
        args=["--auth-type", "jwt", "--url", url],
        env=_environment(token, home, environment),
        cwd=home,
    )
    with (home / "errors").open("w") as errors:
        async with (
            stdio_client(program, errors) as streams,
            ClientSession(*streams) as session,
        ):
            await session.initialize()
            yield Agent(session)


@asynccontextmanager
async def over_http(url: str, token: str, home: Path, **environment: str) -> AsyncIterator[Agent]:
    """The kernel chooses the port: 0 is passed, and the program says where it listens."""
    process = await asyncio.create_subprocess_exec(
        CONTREE_MCP,
        *("--auth-type", "jwt", "--url", url, "--mode", "http", "--http-port", "0"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(token, home, environment),
        cwd=home,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            listening = await _where(process.stderr)
        reader = asyncio.create_task(process.stderr.read())  # or a full pipe would stop it
        async with (
            streamable_http_client(f"{listening}/mcp") as (receive, send, _),
            ClientSession(receive, send) as session,
        ):
            await session.initialize()
            yield Agent(session)
        process.terminate()
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await reader
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _where(said: asyncio.StreamReader) -> str:
    """Return the address in what it says. Raises AssertionError with all of it when it ends."""
    lines = []
    while line := (await said.readline()).decode():
        lines.append(line)
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
    raise AssertionError("".join(lines))


def _environment(token: str, home: Path, more: Mapping[str, str]) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "CONTREE_TOKEN": token,
        "CONTREE_NO_UPDATE_CHECK": "1",
        **more,
    }
