"""The routes of subprocesses over fakes, with a worker's end that answers as each test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from contree.app.guest import steer_instance
from contree.app.guest.guest_control import Action, ControlAnswer, GuestCommand, Outcome
from contree.app.journal import JournalEntry
from contree.domain.operation import Operation
from contree.domain.project import project_id_of
from contree.domain.subprocess import SubprocessSpec
from contree.domain.token import Permission
from contree.http.execution.subprocesses import signal_number
from tests.unit.http.world import Api, World, bearer

RUSAGE = {"user_time_us": 1_000_000, "max_rss_kb": 7}


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer_instance, "ANSWER_WAIT_S", 0.2)
    monkeypatch.setattr(steer_instance, "STDIN_WAIT_S", 0.2)


async def a_run(api: Api, world: World, **fields: Any) -> UUID:
    body = {"command": "c", "image": str(await world.image()), **fields}
    return UUID((await (await api.post("/v1/instances", json=body)).json())["uuid"])


@asynccontextmanager
async def served(
    world: World, operation_id: UUID, outcome: Outcome, **fields: Any
) -> AsyncIterator[list[tuple[GuestCommand, bytes]]]:
    """Answer every command so; yield what came."""
    came: list[tuple[GuestCommand, bytes]] = []

    async def answer() -> None:
        async for received in inbox.commands():
            payload = await inbox.start(received.number)
            assert payload is not None
            came.append((received.command, payload))
            await inbox.answer(received.number, ControlAnswer(outcome=outcome, **fields))

    async with world.control.open(operation_id) as inbox:
        task = asyncio.create_task(answer())
        yield came
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_process_is_started_and_the_answer_says_where_to_look(
    api: Api, world: World
) -> None:
    run = await a_run(api, world)
    await world.begin(run)
    body = {
        "command": "cat",
        "args": ["-u"],
        "env": {"A": "1", "B": None, "MY_TOKEN": "s3cret"},
        "stdin": {"value": "aGk=", "encoding": "base64", "close": False},
        "truncate_output_at": 10,
        "image": "ignored",
    }
    async with served(world, run, Outcome.DONE, spid=2) as came:
        response = await api.post(f"/v1/operations/{run}/subprocesses", json=body)
    assert (response.status, await response.json()) == (201, {"spid": 2})
    assert response.headers["Location"] == f"/v1/operations/{run}/subprocesses/2"
    [(command, payload)] = came
    assert command.action is Action.SPAWN
    assert command.facts["env"] == {"A": "<SEALED>", "B": None, "MY_TOKEN": "<MASKED>"}
    spec = await world.environment.opened(
        project_id_of("alpha"), SubprocessSpec.from_fact(command.facts)
    )
    assert spec.env == {"A": "1", "B": None, "MY_TOKEN": "<MASKED>"}
    assert command.facts["stdin"]["close"] is False
    stdin = await world.content.read_bytes(project_id_of("alpha"), command.facts["stdin"]["sha256"])
    assert stdin == b"hi"
    assert b"s3cret" not in repr(command).encode()
    assert payload  # sealed


async def test_input_goes_as_it_is_in_bounded_pieces(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steer_instance, "PAYLOAD_BYTES_MAX", 4)
    run = await a_run(api, world)
    await world.begin(run)
    path = f"/v1/operations/{run}/subprocesses/1/stdin"
    async with served(world, run, Outcome.DONE) as came:
        for body in ({"value": "\u00e41234567"}, {"value": ""}, {"value": "x", "close": False}):
            response = await api.post(path, json=body)
            assert (response.status, await response.read()) == (204, b"")
    assert [(payload, command.facts["close"]) for command, payload in came] == [
        ("\u00e412".encode(), False),
        (b"3456", False),
        (b"7", True),
        (b"", True),
        (b"x", False),
    ]


@pytest.mark.parametrize(
    ("outcome", "spawn", "stdin", "kill"),
    [
        (Outcome.BUSY, 425, 425, 425),
        (Outcome.ENDED, 409, 410, 404),
        (Outcome.NO_PROCESS, 404, 404, 404),
        (Outcome.STDIN_CLOSED, 409, 409, 409),
        (Outcome.REFUSED, 409, 409, 409),
        (Outcome.UNKNOWN, 504, 504, 504),
    ],
)
async def test_each_outcome_has_its_status(
    api: Api, world: World, outcome: Outcome, spawn: int, stdin: int, kill: int
) -> None:
    run = await a_run(api, world)
    await world.begin(run)
    path = f"/v1/operations/{run}/subprocesses"
    async with served(world, run, outcome, text="why"):
        answers = [
            await api.post(path, json={"command": "c"}),
            await api.post(f"{path}/1/stdin", json={"value": "x"}),
            await api.delete(f"{path}/1?signal=TERM"),
        ]
    assert [answer.status for answer in answers] == [spawn, stdin, kill]
    for answer in answers:
        assert (await answer.json())["status"] == answer.status
        assert ("Retry-After" in answer.headers) == (answer.status == 425)


async def test_what_cannot_be_started_is_the_commands_fault(api: Api, world: World) -> None:
    run = await a_run(api, world)
    await world.begin(run)
    async with served(world, run, Outcome.REFUSED, text="not found", field="command"):
        response = await api.post(f"/v1/operations/{run}/subprocesses", json={"command": "c"})
    assert response.status == 400
    assert (await response.json())["field"] == "command"


async def statuses(api: Api, run: UUID) -> list[int]:
    path = f"/v1/operations/{run}/subprocesses"
    return [
        (await api.post(path, json={"command": "c"})).status,
        (await api.get(f"{path}/1")).status,
        (await api.delete(f"{path}/1")).status,
        (await api.post(f"{path}/1/stdin", json={"value": "x"})).status,
    ]


async def test_each_state_of_the_operation_has_its_statuses(api: Api, world: World) -> None:
    run = await a_run(api, world)
    assert await statuses(api, run) == [425, 425, 425, 425]  # nobody has taken it
    await world.begin(run)
    assert await statuses(api, run) == [425, 425, 425, 425]  # the guest is not up
    await world.succeed(run, await world.outcome())
    assert await statuses(api, run) == [409, 404, 409, 410]
    cancelled = await a_run(api, world)
    await api.delete(f"/v1/operations/{cancelled}")
    assert await statuses(api, cancelled) == [409, 404, 409, 410]
    body = {"registry": {"url": "docker://registry.example/a"}}
    pull = UUID((await (await api.post("/v1/images/import", json=body)).json())["uuid"])
    assert await statuses(api, pull) == [409, 404, 409, 409]
    assert await statuses(api, UUID(int=4711)) == [404, 404, 404, 404]


async def test_the_permission_is_that_of_the_instance(world: World) -> None:
    async with world.client() as api:
        api.session.headers.update(bearer(await world.token()))
        disposable = await a_run(api, world, disposable=True)
        kept = await a_run(api, world)
    for permission, allowed in (
        (Permission.SPAWN, kept),
        (Permission.SPAWN_DISPOSABLE, disposable),
    ):
        secret = await world.token(permissions=[permission])
        async with world.client() as api:
            api.session.headers.update(bearer(secret))
            for run in (kept, disposable):
                found = await statuses(api, run)
                # To look at a process is reading, which needs `list`.
                assert found == ([425, 403, 425, 425] if run == allowed else [403] * 4)


def entry(world: World, type_: str, spid: int, **data: Any) -> JournalEntry:
    return JournalEntry(at=world.clock.now(), type=type_, spid=spid, data=data)


async def test_a_result_is_told_from_the_journal_while_it_runs_and_ever_after(
    api: Api, world: World
) -> None:
    run = await a_run(api, world)
    operation: Operation = await world.begin(run)
    path = f"/v1/operations/{run}/subprocesses"
    await world.journal.append(
        run,
        [
            entry(world, "spawn", 1, pid=10),
            entry(world, "spawn", 2, pid=11),
            entry(world, "stdout", 1, value="of main", encoding="ascii"),
            entry(world, "stdout", 2, value="4oI=", encoding="base64"),  # two thirds of a euro
        ],
    )
    world.clock.advance(3)
    running = await (await api.get(f"{path}/2")).json()
    assert running["state"]["exit_code"] == running["state"]["signal"] == -1
    assert running["state"]["pid"] == 11
    assert running["stdout"]["value"] == ""
    assert running["resources"]["elapsed_time"] == 3.0
    await world.journal.append(
        run,
        [
            entry(world, "stdout", 2, value="rA==", encoding="base64"),
            entry(world, "truncated", 2, stream="stderr", bytes_emitted=1, bytes_dropped=9),
            entry(
                world, "exit", 2, pid=11, code=-1, signal=9, timed_out=False,
                oom_killed=True, duration_ms=1500, core_dump=True, resources=RUSAGE,
            ),
            entry(world, "size_cap", 0, limit_bytes=1, file_size=1),
            entry(world, "exit", 1, pid=10, code=3, signal=-1, timed_out=False,
                  oom_killed=False, duration_ms=1, resources=RUSAGE),
        ],
    )  # fmt: skip
    await world.succeed(operation.id, await world.outcome())
    ended = await (await api.get(f"{path}/2")).json()
    assert (ended["state"]["exit_code"], ended["state"]["signal"]) == (-1, 9)
    assert ended["state"]["core_dump"] is True
    assert ended["state"]["oom_killed"] is True
    assert ended["stdout"] == {"value": "4oKs", "encoding": "base64", "truncated": False}
    assert ended["stderr"]["truncated"] is True
    assert ended["resources"]["max_rss"] == 7
    assert ended["resources"]["user_cpu_time"] == 1.0
    main = await (await api.get(f"{path}/1")).json()
    # The journal was full before it ended: nobody knows what is missing.
    assert (main["stdout"]["value"], main["stdout"]["truncated"]) == ("of main", True)
    assert main["state"]["exit_code"] == 3
    assert (await api.get(f"{path}/3")).status == 404


@pytest.mark.parametrize("spid", ["0", "-1", "x", "1.0", "2147483648", "%20"])
async def test_a_bad_process_number_is_refused_by_name(api: Api, world: World, spid: str) -> None:
    run = await a_run(api, world)
    path = f"/v1/operations/{run}/subprocesses/{spid}"
    for answer in (
        await api.get(path),
        await api.delete(path),
        await api.post(f"{path}/stdin", json={"value": ""}),
    ):
        assert answer.status == 400
        assert (await answer.json())["field"] == "spid"


@pytest.mark.parametrize("text", ["15", "TERM", "SIGTERM", "term", "sigterm"])
def test_a_signal_may_be_written_in_each_form(text: str) -> None:
    assert signal_number(text) == 15


NO_SIGNALS = ["", "0", "65", "-9", "NOPE", "SIG", "SIGSIGTERM", "\u0661", "9" * 50]


@pytest.mark.parametrize("text", NO_SIGNALS)
async def test_an_unknown_signal_is_refused(api: Api, world: World, text: str) -> None:
    run = await a_run(api, world)
    answer = await api.delete(f"/v1/operations/{run}/subprocesses/1", params={"signal": text})
    assert answer.status == 400
    assert (await answer.json())["field"] == "signal"
