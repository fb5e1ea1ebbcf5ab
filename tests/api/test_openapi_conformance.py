"""Generated requests, good and bad, against a live server on fakes: it does what its document says.

One test an operation of the document; a fixed seed, so that a failure comes back. Half of the ids
that are generated are replaced by ones that exist, and the last test fails when an answer that the
document names was never seen.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from uuid import UUID

import pytest
import schemathesis
from hypothesis import HealthCheck, seed, settings

from contree.app.guest.guest_control import ControlAnswer, Outcome
from contree.app.images.layer_store import EntryType
from contree.app.journal import JournalEntry
from contree.app.request_run import RunOrder
from contree.domain.file import file_id_of
from contree.domain.image import imported_image_id
from contree.domain.project import project_id_of
from contree.domain.token import Permission
from contree.http.openapi import document
from contree.http.server import serve_api
from tests.unit.http.world import LIMITS, World

SEED = 20_260_102
EXAMPLES = 20
REQUEST_TIMEOUT_S = 10

PROJECT_ID = project_id_of("alpha")
IMAGE_ID = str(imported_image_id(PROJECT_ID, "sha256:1"))
FILE_SHA256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
"""Of the one byte `x`."""
FILE_ID = str(file_id_of(PROJECT_ID, FILE_SHA256))
EXAMPLES_OF = {
    ("path", "image_uuid"): {"example": IMAGE_ID},
    ("path", "image"): {"example": IMAGE_ID},
    ("path", "other_image"): {"example": IMAGE_ID},
    ("path", "sha256"): {"example": FILE_SHA256},
    ("query", "path"): {
        "examples": {p: {"value": p} for p in ("/etc", "/etc/passwd", "etc", "/fifo")}
    },
    ("query", "tag"): {"example": "base"},
}
"""Things that exist, so that what is done with them is seen too."""

PAST = {
    "type": "string",
    "pattern": r"^([0-9]{1,6}[smhdw]|[0-9]{1,9}(\.[0-9]{1,6})?|@[0-9]"
    r"|20[01][0-9]-0[1-9]-[12][0-8]T1[0-9]:[0-5][0-9]:[0-5][0-9]Z?)$",
}
"""No schema can say what is in the future or beyond the end of the log."""

ERASED = "410 of an erased project"
NOT_SEEN_HERE = {"206", "401", "409", "415", "416", "503", "504"}
"""These need a state of the server, a header, or no token (a check of its own sends none)."""

DRAWN_BY_CHANCE: dict[str, set[str]] = {
    "GET /v1/images/{image}/diff/{other_image}": {"200", "403"},
    "GET /v1/images/{image}/log": {"200", "403"},
    "GET /v1/images/{image}/blame": {"200", "403", "422"},
}
"""A draw seldom names two images, or a path, that are there. tests/unit/http/test_diff.py,
test_image_log.py and test_blame.py see these answers each time."""

# A path that exists may be of the wrong type; tags and slashes redirect.
POSITIVE = ["2xx", "302", "307", "401", "403", "404", "409", "410", "422", "425"]
# What is wrong with a request to an erased project need not be looked at.
NEGATIVE = ["400", "401", "403", "404", "405", "409", "410", "422", "425", "5xx"]

CONFIG = schemathesis.Config.from_dict(
    {
        "seed": SEED,
        "generation": {"with-security-parameters": False, "deterministic": True},
        "checks": {
            "positive_data_acceptance": {"expected-statuses": POSITIVE},
            "negative_data_rejection": {"expected-statuses": NEGATIVE},
        },
        "operations": [
            {
                # No schema can say that a text is a regular expression.
                "include-path": "/v1/inspect/{image_uuid}/grep",
                "checks": {"positive_data_acceptance": {"expected-statuses": [*POSITIVE, "400"]}},
            },
            {
                # Nor which types of events there are, and where the log ends.
                "include-path": "/v1/audit/events",
                "checks": {"positive_data_acceptance": {"expected-statuses": [*POSITIVE, "400"]}},
            },
            *(
                {
                    # Nor that names in `secret_env` are names in `env` (`map_body` sees to that
                    # where it is asked).
                    "include-path": path,
                    "checks": {
                        "positive_data_acceptance": {"expected-statuses": [*POSITIVE, "400"]}
                    },
                }
                for path in ("/v1/instances", "/v1/operations/{operation_uuid}/subprocesses")
            ),
            {
                # Nor what the `next` of a page was.
                "include-path": "/v1/images/{image}/log",
                "checks": {"positive_data_acceptance": {"expected-statuses": [*POSITIVE, "400"]}},
            },
            {
                # Nor which secrets a run had.
                "include-path": "/v1/operations/{operation_uuid}/replay",
                "checks": {"positive_data_acceptance": {"expected-statuses": [*POSITIVE, "400"]}},
            },
        ],
    }
)


def document_under_test() -> dict[str, Any]:
    """The document without the `Project` header: it has tests of its own, and any text but one is
    a 401 that hides everything behind it."""
    described: dict[str, Any] = copy.deepcopy(document(LIMITS))
    for operation in (o for item in described["paths"].values() for o in item.values()):
        parameters = operation.get("parameters", [])
        operation["parameters"] = [
            parameter | EXAMPLES_OF.get((parameter["in"], parameter["name"]), {})
            for parameter in parameters
            if parameter["name"] != "Project"
        ]
        for parameter in operation["parameters"]:
            if parameter["name"] == "as_of":
                parameter["schema"] = PAST
    # A feed never ends: tests/unit/http/test_audit.py follows it.
    page = described["paths"]["/v1/audit/events"]["get"]
    page["parameters"] = [p for p in page["parameters"] if p["name"] != "follow"]
    return described


schema = schemathesis.openapi.from_dict(document_under_test(), config=CONFIG)
seen: dict[str, set[str]] = defaultdict(set)
turns: Counter[str] = Counter()


class LiveServer:
    """An API over a fresh World, on a free port, in a thread of its own with its own loop.

    `erased`: of the same project with the same things in it, whose content was then erased.
    """

    def __init__(self, *, erased: bool = False) -> None:
        self._erased = erased
        self.url = ""
        self.secret = ""
        self.powerless = ""
        self.operation_ids: dict[str, str] = {}
        self._started, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        world = World()
        self.secret = await world.token()
        self.powerless = await world.token(permissions=[])
        assert str(await world.image(tag="base")) == IMAGE_ID
        world.files.add("/etc", EntryType.DIRECTORY)
        world.files.add("/fifo", EntryType.FIFO)
        world.files.add("/etc/passwd", data=b"root\n" * 50)
        services = world.services()
        caller = await services.access.authenticate(self.secret, project=None, request_id="r")
        caller.require(Permission.SPAWN)
        file = await services.uploads.upload(
            caller, services.content.read(PROJECT_ID, await one_byte(world))
        )
        assert str(file.file_id) == FILE_ID
        for state in ("pending", "ended", "running"):
            order = RunOrder(image=IMAGE_ID, command="c")
            operation_id, _ = await services.runs.request(caller, order)
            self.operation_ids[state] = str(operation_id)
            if state == "ended":
                await world.succeed(operation_id, await world.outcome(stdout=b"\xff"))
                replay_id = await services.replays.request(caller, operation_id)
                await world.succeed(replay_id, await world.outcome(stdout=b"\xfe"))
                self.operation_ids["replayed"] = str(replay_id)
            if state == "running":
                await world.begin(operation_id)
                await world.journal.append(operation_id, a_spawn(world))
                serving = asyncio.create_task(answer_commands(world, operation_id))
        if self._erased:
            await world.erase()
            self.secret = await world.token()
        async with serve_api(services, "127.0.0.1", 0) as url:
            self.url = url
            self._started.set()
            await self._stop.wait()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def a_spawn(world: World) -> list[JournalEntry]:
    return [JournalEntry(at=world.clock.now(), type="spawn", spid=1, data={"pid": 7})]


async def answer_commands(world: World, operation_id: UUID) -> None:
    """A worker that does whatever it is told."""
    async with world.control.open(operation_id) as inbox:
        async for received in inbox.commands():
            await inbox.start(received.number)
            spid = received.command.spid or 2
            await inbox.answer(received.number, ControlAnswer(outcome=Outcome.DONE, spid=spid))


async def one_byte(world: World) -> str:
    return (await world.content.put_bytes(PROJECT_ID, b"x")).sha256


@pytest.fixture
def server() -> Iterator[LiveServer]:
    live = LiveServer()
    live.start()
    yield live
    live.stop()


def exists(text: object) -> bool:
    """Say whether a generated id shall be replaced by one that exists: every second good one is."""
    try:
        return UUID(str(text)).int % 2 == 0
    except ValueError:
        return False


@pytest.fixture
def erased() -> Iterator[LiveServer]:
    live = LiveServer(erased=True)
    live.start()
    yield live
    live.stop()


@schema.hook
def map_path_parameters(
    context: schemathesis.HookContext, path_parameters: dict[str, Any] | None
) -> dict[str, Any] | None:
    parameters = dict(path_parameters or {})
    for name, value in parameters.items():
        if name == "image_uuid" and exists(value):
            parameters[name] = IMAGE_ID
        if name == "sha256" and len(str(value)) == 64 and str(value)[-1] in "02468aceACE":
            parameters[name] = FILE_SHA256
    return parameters or None


@schema.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    body = dict(body)
    if exists(body.get("image")):
        body["image"] = IMAGE_ID
    if isinstance(named := body.get("secret_env"), list) and all(isinstance(n, str) for n in named):
        # No schema can say that they are names in `env`.
        env = body.get("env")
        body["secret_env"] = list(env)[: len(named)] if isinstance(env, dict) else []
    if isinstance(body.get("files"), dict):
        body["files"] = {
            path: {**file, "uuid": FILE_ID}
            if isinstance(file, dict) and is_uuid(file.get("uuid"))
            else file
            for path, file in body["files"].items()
        }
    return body


def is_uuid(text: object) -> bool:
    try:
        return str(UUID(str(text))) == str(text).lower()
    except ValueError:
        return False


def state_for(case: schemathesis.Case[Any]) -> str:
    """Which operation to put into a request that names one."""
    parameters = case.path_parameters
    if "subprocesses" in case.path:
        if isinstance(parameters.get("spid"), int) and parameters["spid"] > 0:
            parameters["spid"] = 1
        turns[case.operation.label] += 1
        return ("ended", "running", "pending", "running")[turns[case.operation.label] % 4]
    if case.path.endswith("/replay") and case.method == "GET":
        turns[case.operation.label] += 1
        return ("replayed", "ended")[turns[case.operation.label] % 2]
    return "pending" if case.method == "DELETE" else "ended"


@schema.parametrize()
@seed(SEED)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_the_server_does_what_its_document_says(
    case: schemathesis.Case[Any], server: LiveServer, erased: LiveServer
) -> None:
    operation_id = case.path_parameters.get("operation_uuid") if case.path_parameters else None
    if exists(operation_id):
        case.path_parameters["operation_uuid"] = server.operation_ids[state_for(case)]
    label = case.operation.label
    sides = [(server.url, server.secret), (server.url, server.powerless)]
    if "410" in case.operation.definition.raw["responses"] and ERASED not in seen[label]:
        sides.insert(0, (erased.url, erased.secret))
    for url, secret in sides:
        response = case.call_and_validate(
            base_url=url,
            headers={"Authorization": f"Bearer {secret}"},
            allow_redirects=False,
            timeout=REQUEST_TIMEOUT_S,
        )
        seen[label].add(str(response.status_code))
        if url == erased.url:
            if response.status_code == HTTPStatus.GONE:
                seen[label].add(ERASED)
        elif response.status_code >= 400:
            break


def test_every_answer_that_the_document_names_was_seen() -> None:
    if not seen:
        pytest.skip("comes after the tests of the operations, and counts what they have seen")
    missing: dict[str, set[str]] = {}
    for path, item in document(LIMITS)["paths"].items():
        for method, operation in item.items():
            label = f"{method.upper()} {path}"
            expected = set(operation["responses"]) - NOT_SEEN_HERE
            if label == "POST /v1/files":  # any bytes are a file, unless there are too many
                expected.remove("400")
            if "410" in expected:
                expected.add(ERASED)
            if never_seen := expected - seen[label] - DRAWN_BY_CHANCE.get(label, set()):
                missing[label] = never_seen
    assert missing == {}
