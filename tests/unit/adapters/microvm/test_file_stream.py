"""Many files into a guest: how often the host waits, and for how many; whom an error names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from contree.adapters.microvm.agent.commands import HostFrameType
from contree.adapters.microvm.agent.file_stream import WINDOW_FILES
from contree.adapters.microvm.agent.messages import GuestErrorCode
from contree.app.guest.microvm import GuestFile, GuestInfo
from contree.domain.errors import OperationFailure
from tests.unit.adapters.microvm import scripted_agent as say
from tests.unit.adapters.microvm.scripted_agent import ScriptedAgent

INFO = GuestInfo(
    accelerator="none",
    kernel="0",
    machine="x86_64",
    boot_id=UUID(int=1),
    init_pid=1,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.fixture
async def agent() -> AsyncIterator[ScriptedAgent]:
    agent = await ScriptedAgent.connected(INFO)
    yield agent
    await agent.aclose()


class Files:
    """So many files of one byte each; `begun` are those that were asked for."""

    def __init__(self, count: int) -> None:
        self.begun = 0
        self._count = count

    async def __aiter__(self) -> AsyncIterator[GuestFile | bytes]:
        for number in range(self._count):
            self.begun += 1
            name = f"file /d/{number}"
            yield GuestFile(path=f"/d/{number}".encode(), name=name, size_bytes=1)
            yield b"x"


async def hear_ends(agent: ScriptedAgent, count: int) -> None:
    while count:
        kind, _ = await agent.hear()
        count -= kind == HostFrameType.FILE_END


@pytest.mark.parametrize("count", [1, WINDOW_FILES - 1])
async def test_no_answer_is_waited_for_before_all_files_are_sent(
    agent: ScriptedAgent, count: int
) -> None:
    """So files cost one round trip, however many they are, up to the window."""
    putting = asyncio.create_task(agent.guest.put_files(aiter(Files(count))))
    async with asyncio.timeout(60):
        await hear_ends(agent, count)
        await agent.say(say.file_ok(1) * count)
        await putting


async def test_a_window_bounds_what_is_under_way_and_half_of_it_opens_it_again(
    agent: ScriptedAgent,
) -> None:
    files = Files(3 * WINDOW_FILES)
    putting = asyncio.create_task(agent.guest.put_files(aiter(files)))
    turns = 0
    async with asyncio.timeout(60):
        await hear_ends(agent, WINDOW_FILES - 1)
        answered, sent = 0, WINDOW_FILES - 1
        while sent < 3 * WINDOW_FILES:
            # One more may be in the making: it is gathered and not sent before there is room.
            assert files.begun - answered <= WINDOW_FILES + 1
            await agent.say(say.file_ok(1) * (WINDOW_FILES // 2))
            answered += WINDOW_FILES // 2
            turns += 1
            more = min(WINDOW_FILES // 2, 3 * WINDOW_FILES - sent)
            await hear_ends(agent, more)
            sent += more
        await agent.say(say.file_ok(1) * (3 * WINDOW_FILES - answered))
        await putting
    assert turns <= 5


async def test_an_error_names_its_file_and_stops_the_stream(agent: ScriptedAgent) -> None:
    putting = asyncio.create_task(agent.guest.put_files(aiter(Files(10 * WINDOW_FILES))))
    async with asyncio.timeout(60):
        await hear_ends(agent, 3)
        refusal = say.error(HostFrameType.FILE_END, GuestErrorCode.IO, message=b"no room")
        await agent.say(say.file_ok(1), say.file_ok(1), refusal)
        with pytest.raises(OperationFailure, match=r"^file /d/2: no room$"):
            await putting


@pytest.mark.parametrize("pieces", [[b"x"], [b"xx", b"x"]])
async def test_content_of_another_size_is_refused_by_name(
    agent: ScriptedAgent, pieces: list[bytes]
) -> None:
    async def items() -> AsyncIterator[GuestFile | bytes]:
        yield GuestFile(path=b"/a", name="file /a", size_bytes=2)
        for piece in pieces:
            yield piece

    with pytest.raises(OperationFailure, match=r"^file /a: content is not of its 2 bytes$"):
        await agent.guest.put_files(items())


async def test_a_path_that_the_protocol_has_not_is_refused_by_name(agent: ScriptedAgent) -> None:
    async def items() -> AsyncIterator[GuestFile | bytes]:
        yield GuestFile(path=b"/a/../b", name="file /a")

    with pytest.raises(OperationFailure, match=r"^file /a: path="):
        await agent.guest.put_files(items())
