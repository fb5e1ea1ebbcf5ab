"""What others choose the size of: refused, bounded or kept as content; so events stay small."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import orjson
import pytest

from contree.adapters.registry.manifest import LAYERS_MAX
from contree.app.content.project_environment import Inherited
from contree.app.event_log import EVENT_BYTES_MAX
from contree.app.guest.steer_instance import SubprocessOrder
from contree.app.images.image_source import Credentials
from contree.app.images.request_import import USERNAME_CHARS_MAX, ImportOrder
from contree.app.request_run import RunOrder, StdinOrder
from contree.domain.aggregate import Aggregate, event_types
from contree.domain.audit_reading import AuditReading
from contree.domain.bounded_text import bounded
from contree.domain.context import Context
from contree.domain.environment import ENTRIES_MAX, ENTRY_BYTES_MAX
from contree.domain.errors import InvalidFieldError
from contree.domain.file import File
from contree.domain.image import Image
from contree.domain.instance import (
    ARG_BYTES_MAX,
    FILE_PATHS_BYTES_MAX,
    FILES_MAX,
    PROCESS_BYTES_MAX,
    FilePlacement,
    InstanceSpec,
    Stdin,
)
from contree.domain.operation import InstanceRequested, Operation, Status, SubprocessSpawned
from contree.domain.outcome import CapturedStream, ProcessOutcome, ResourceUsage
from contree.domain.project import Project, Removal
from contree.domain.spec_body import COMMAND_SHOWN_CHARS
from contree.domain.subprocess import SubprocessSpec
from contree.domain.tag import Tag
from contree.domain.token import Permission, Token
from tests.fakes import event_log as fake_event_log
from tests.fakes.clock import EPOCH
from tests.fakes.image_source import PublishedImage
from tests.fakes.microvm import FakeProcess
from tests.support.registry import tar_of
from tests.unit.app.test_steer_instance import OPEN, exit_of, started
from tests.unit.app.world import PROJECT, URL, World, a_caller

AWKWARD = "\x01"
"""The character that takes the most bytes of JSON for one of its own: six."""

LONG_ENV = {f"VARIABLE_{n}": "v" * 1000 for n in range(60)}
LARGEST = {
    "args": tuple("x" * (ARG_BYTES_MAX - 1) for _ in range(7)),
    "env": {f"VARIABLE_{n}": "y" * 900 for n in range(100)},
}
"""Nearly all that a guest takes in one piece."""


async def _shown(process: FakeProcess) -> int:
    """Print what the process was given."""
    spec = process.spec
    process.write(orjson.dumps([spec.argv[1:], dict(spec.env), spec.cwd]))
    return 0


async def _wait(process: FakeProcess) -> int:
    await process.read()
    return 0


PROGRAMS = {"show": _shown, "wait": _wait, "sh": _shown}


async def given(world: World, outcome: object) -> tuple[list[str], dict[str, str], str]:
    """What a process of `show` was given, out of its output."""
    assert isinstance(outcome, dict)
    shown = orjson.loads(await world.content.read_bytes(PROJECT, outcome["stdout"]["sha256"]))
    return tuple(shown)


def spec_fact(world: World, operation_id: UUID) -> dict[str, object]:
    (event,) = [
        e
        for e in world.log.events
        if isinstance(e, InstanceRequested) and e.originator_id == operation_id
    ]
    return event.spec


def assert_small(world: World) -> None:
    assert max(len(stored.state) for stored in world.log.stored) < EVENT_BYTES_MAX // 2


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("args", {"args": ("x" * 125_000,) * 240}),
        ("args", {"args": ("x" * 131_070,) * 8}),
        ("args", {"args": ("x" * 125_000,) * 240, "shell": True}),
        ("env", {"env": {f"A{n}": "x" * 125_000 for n in range(240)}}),
        ("env", {"env": {f"{n}{'N' * 100_000}": None for n in range(20)}}),
        ("env", {"env": {f"TOKEN_{n}_SECRET": "x" * 125_000 for n in range(9)}}),
        ("hostname", {"hostname": "\U0001f600" * 17}),
    ],
)
async def test_what_no_guest_can_be_given_is_refused_and_leaves_no_event(
    field: str, fields: dict[str, object]
) -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
    count = len(world.log.events)
    with pytest.raises(InvalidFieldError) as refused:
        await world.runs.request(a_caller(), RunOrder(image=str(base), command="show", **fields))
    assert refused.value.field == field
    assert len(world.log.events) == count
    if field != "hostname":
        assert str(PROCESS_BYTES_MAX) in str(refused.value)


async def test_paths_of_files_have_a_bound_together() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
    files = {f"/{n:04}/{'d' * 300}": FilePlacement(file_id=UUID(int=n)) for n in range(FILES_MAX)}
    order = RunOrder(image=str(base), command="show", files=files)
    with pytest.raises(InvalidFieldError, match=f"at most {FILE_PATHS_BYTES_MAX}") as refused:
        await world.runs.request(a_caller(), order)
    assert refused.value.field == "files"


async def test_the_largest_run_is_kept_by_digest_runs_and_is_shown_and_replayed_whole() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        env = {**LARGEST["env"], "API_KEY": "s3cret"}
        row = await world.ran(
            base, "show", *LARGEST["args"], env=env, cwd="/here", stdin=StdinOrder(data=b"in")
        )
        assert row.status is Status.SUCCESS
        argv, had, cwd = await given(world, row.outcome)
        assert (tuple(argv), cwd) == (LARGEST["args"], "/here")
        assert had.items() >= env.items()
        fact = spec_fact(world, row.operation_id)
        assert (fact["command"], fact["args"], fact["env"]) == ("show", [], {})
        assert_small(world)
        shown = await world.environment.shown(PROJECT, InstanceSpec.from_fact(row.request))
        assert (shown.args, shown.cwd, shown.body) == (LARGEST["args"], "/here", None)
        assert shown.env == {**LARGEST["env"], "API_KEY": "<MASKED>"}
        replay_id = await world.replays.request(
            a_caller(), row.operation_id, secrets={"API_KEY": "s3cret"}
        )
        replay = await world.end_of(replay_id)
        assert await given(world, replay.outcome) == await given(world, row.outcome)
        assert spec_fact(world, replay_id)["body"] == fact["body"]


async def test_a_short_run_is_recorded_in_its_event() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "show", "a" * 10_000)
    assert row.request["body"] is None
    assert row.request["args"] == ["a" * 10_000]


async def test_the_beginning_of_a_long_command_stays_in_its_event() -> None:
    world = World(PROGRAMS)
    script = "echo begins so;" + AWKWARD * (ARG_BYTES_MAX - 100)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, script, shell=True)
        assert (await given(world, row.outcome))[0] == ["-c", script]
    assert spec_fact(world, row.operation_id)["command"] == script[:COMMAND_SHOWN_CHARS]
    assert_small(world)


async def test_a_replay_of_what_retention_has_removed_is_refused() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "show", *LARGEST["args"])
    await world.content.remove(
        PROJECT, row.request["body"]["sha256"], put_before=EPOCH + timedelta(days=9999)
    )
    with pytest.raises(InvalidFieldError, match="no longer kept"):
        await world.replays.request(a_caller(), row.operation_id)


async def test_subprocesses_have_the_same_bounds() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        operation_id = await started(world, base, "wait", stdin=OPEN)
        too_large = SubprocessOrder(command="show", args=("x" * 131_070,) * 8)
        with pytest.raises(InvalidFieldError, match=str(PROCESS_BYTES_MAX)):
            await world.steering.spawn(a_caller(), operation_id, too_large)
        spid = await world.steering.spawn(
            a_caller(), operation_id, SubprocessOrder(command="show", **LARGEST)
        )
        await exit_of(world, operation_id, spid)
        await world.steering.write_stdin(a_caller(), operation_id, 1, b"", close=True)
        await world.end_of(operation_id)
        entries = [n.entry for n in await world.journal.read(operation_id, spid=spid)]
    assert tuple(entries[0].data["args"]) == LARGEST["args"]
    (spawned,) = [e for e in world.log.events if isinstance(e, SubprocessSpawned)]
    assert (spawned.spec["args"], spawned.spec["body"] is None) == ([], False)
    assert_small(world)


async def test_what_is_too_large_only_with_the_images_environment_fails_with_the_reason() -> None:
    """The main process; a further one is refused, and the run goes on."""
    world = World(PROGRAMS)
    world.source.publish(
        URL,
        PublishedImage(
            layers=[tar_of([("etc/motd", b"hello\n")])],
            env={f"A{n}": "x" * 100_000 for n in range(5)},
            workdir="/work",
        ),
    )
    large = {f"B{n}": "x" * 100_000 for n in range(6)}
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "true", shell=True, env=large)
        assert row.status is Status.FAILED
        assert str(row.error).startswith("env: command, args, env and cwd take ")
        assert str(PROCESS_BYTES_MAX) in str(row.error)
        operation_id = await started(world, base, "wait", stdin=OPEN)
        with pytest.raises(InvalidFieldError, match="command, args, env") as refused:
            await world.steering.spawn(
                a_caller(), operation_id, SubprocessOrder(command="x", shell=True, env=large)
            )
        assert refused.value.field == "env"
        await world.steering.write_stdin(a_caller(), operation_id, 1, b"", close=True)
        assert (await world.end_of(operation_id)).status is Status.SUCCESS


async def test_a_long_environment_of_an_image_is_kept_by_digest_and_inherited() -> None:
    world = World(PROGRAMS)
    layers = [tar_of([("etc/motd", b"hello\n")])]
    world.source.publish(URL, PublishedImage(layers=layers, env=LONG_ENV, workdir="/work"))
    async with world.working():
        base = await world.imported()
        shell = await world.ran(base, "x", shell=True)
        assert (await given(world, shell.outcome))[1].items() >= LONG_ENV.items()
        kept = await world.ran(base, "show", env={"MORE": "z" * 100_000}, preserve_env=True)
        child = await world.ran(kept.result_image_id, "show")
        inherited = (await given(world, child.outcome))[1]
        assert inherited.items() >= {**LONG_ENV, "MORE": "z" * 100_000}.items()
        again = await world.ran(kept.result_image_id, "touch", "/new")
        image, parent = [
            await world.log.load(Image, id_)
            for id_ in (again.result_image_id, kept.result_image_id)
        ]
    assert image is not None
    assert parent is not None
    assert image.environment_image_id == parent.environment_image_id
    source = await world.log.load(Image, image.environment_image_id)
    assert source is not None
    assert source.environment.env == {}
    assert source.environment.body is not None
    assert_small(world)


async def test_an_images_environment_is_equal_to_no_other_content() -> None:
    """So retention of what runs wrote and were given never takes it away."""
    world = World()
    wanted = Inherited(env=LONG_ENV, preserved_env={})
    bodies = [(await world.environment.recorded(PROJECT, wanted)).body for _ in range(2)]
    assert bodies[0] != bodies[1]


async def test_a_user_name_has_a_bound() -> None:
    world = World()
    credentials = Credentials(username="u" * (USERNAME_CHARS_MAX + 1), password="p")
    with pytest.raises(InvalidFieldError) as refused:
        await world.imports.request(
            a_caller(), ImportOrder(registry_url=URL, credentials=credentials)
        )
    assert refused.value.field == "registry.credentials.username"


async def test_an_event_that_the_log_refuses_ends_its_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is a defect of ours, which another attempt would meet again."""

    async def shrink(_: FakeProcess) -> int:
        monkeypatch.setattr(fake_event_log, "EVENT_BYTES_MAX", 700)
        return 0

    world = World({"shrink": shrink})
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "shrink")
    assert row.status is Status.FAILED
    assert "an event contree.operation.succeeded of " in str(row.error)
    operation = await world.log.load(Operation, row.operation_id)
    assert operation is not None
    assert operation.attempts == 1


def test_a_bounded_text_keeps_its_beginning_and_its_end() -> None:
    assert bounded("short") == "short"
    text = bounded("begin" + "x" * 5000 + "the reason")
    assert len(text) == 2000
    assert text.startswith("begin")
    assert text.endswith("the reason")


# Each kind of event with all that others may choose at its largest, and in the character that takes
# the most room.

LARGE_CONTEXT = Context(
    actor="worker:" + "w" * 256, project_id=PROJECT, request_id="r" * 128, at=EPOCH
)
PATH = ("/" + AWKWARD * 254) * 16 + "/" + AWKWARD * 14
STDIN = Stdin(sha256="a" * 64, size_bytes=2**40, encoding="base64", close=False)


async def _largest(world: World) -> Iterator[Aggregate]:
    """Aggregates with every kind of event pending, as the use cases make them."""
    context, environment, ids = LARGE_CONTEXT, world.environment, world.ids
    text, name = AWKWARD * 5_000_000, "n" * 256
    usage = ResourceUsage(**dict.fromkeys(ResourceUsage.__slots__, 2**63 - 1))
    stream = CapturedStream(sha256="a" * 64, size_bytes=2**63 - 1, dropped_bytes=2**63 - 1)
    outcome = ProcessOutcome(
        pid=2**32,
        exit_code=255,
        signal=64,
        core_dumped=True,
        timed_out=True,
        oom_killed=True,
        duration_us=2**63 - 1,
        usage=usage,
        stdout=stream,
        stderr=stream,
    )
    inherited = Inherited(
        env={},
        preserved_env={f"{n:04}{AWKWARD * 200}": AWKWARD * 500 for n in range(ENTRIES_MAX)},
    )
    digest = "sha256:" + "a" * 64

    project = Project.create(context, name="p" * 128)
    project.hold(context, reason=AWKWARD + "x" + AWKWARD * 998)
    project.release(context)
    project.set_retention(context, days=1)
    project.apply_retention(
        context, cut=EPOCH - timedelta(days=1, hours=5), operation_count=2**63 - 1
    )
    project.content_removed(
        context,
        cause=Removal.RETENTION,
        complete=True,
        journal_count=2**63 - 1,
        blob_count=2**63 - 1,
        blob_bytes=2**63 - 1,
    )
    project.erase(context, reason=AWKWARD + "x" + AWKWARD * 998)
    token = Token.issue(
        context,
        token_id=ids.new_id(),
        secret_sha256="a" * 64,
        permissions=list(Permission),
        expires_at=EPOCH,
    )
    token.revoke(context)
    file = File.upload(context, sha256="a" * 64, size_bytes=2**63 - 1)
    file.upload_again(context)
    tag = Tag.assign(context, name=name, image_id=ids.new_id())
    tag.move(context, image_id=ids.new_id())
    tag.remove(context)
    reading = AuditReading.record(
        context,
        reading_id=ids.new_id(),
        subject="events",
        query={f"{n:02}{text}": text for n in range(50)},
        found=1000,
    )
    pull = Operation.request_import(
        context,
        operation_id=ids.new_id(),
        registry_url="\U0001f600" * 1024,
        username='"' * USERNAME_CHARS_MAX,
        tag=name,
        timeout_s=3600,
    )
    pull.assign(context, worker="w" * 256, lease_until=EPOCH)
    pull.start(context, registry_url="\U0001f600" * 1024)
    pull.cancel(context)
    pull.cancelled(context, journal_sha256="a" * 64)

    env = {f"{n:04}{AWKWARD * 100}": AWKWARD * 100 for n in range(4000)}
    spec = InstanceSpec(
        image_id=ids.new_id(),
        command=AWKWARD * (ARG_BYTES_MAX - 1),
        shell=True,
        env=env,
        env_digests=dict.fromkeys(env, "a" * 64),
        cwd=PATH,
        hostname=AWKWARD * 64,
        stdin=STDIN,
        timeout_s=3600,
        files={
            f"/{n:05}{AWKWARD * 46}": FilePlacement(file_id=ids.new_id()) for n in range(FILES_MAX)
        },
    )
    spec.check()
    sealed = await environment.sealed(PROJECT, spec)
    run = Operation.request_instance(
        context, operation_id=ids.new_id(), spec=sealed, replay_of=ids.new_id()
    )
    failed = Operation.request_instance(context, operation_id=ids.new_id(), spec=sealed)
    for operation in (run, failed):
        operation.assign(context, worker="w" * 256, lease_until=EPOCH)
        operation.start(context, kernel="k" * 256, boot_id=str(ids.new_id()), network="none")
    further = SubprocessSpec(
        command=AWKWARD * (ARG_BYTES_MAX - 1),
        shell=True,
        args=(AWKWARD * (ARG_BYTES_MAX - 1),) * 5,
        env={"A": AWKWARD * (ENTRY_BYTES_MAX - 3)},
        cwd=PATH,
        stdin=STDIN,
    )
    further.check()
    further = await environment.sealed(PROJECT, further)
    run.subprocess_spawned(context, spid=2**31 - 1, pid=2**32, spec=further)
    run.signalled(context, spid=2**31 - 1, signal=64)
    failed.lose(context, reason=text)
    failed.fail(context, error=text, outcome=outcome, journal_sha256="a" * 64)
    run.succeed(
        context,
        result_image_id=ids.new_id(),
        result_tag=name,
        image_size_bytes=2**63 - 1,
        outcome=outcome,
        journal_sha256="a" * 64,
    )
    of_registry = await environment.recorded(
        PROJECT, Inherited(env={f"A{n}": "x" * 150 for n in range(95)}, preserved_env={})
    )
    assert of_registry.body is None  # just not long
    image = Image.imported(
        context,
        operation_id=pull.id,
        registry_url="u" * 1024,
        manifest_digest=digest,
        config_digest=digest,
        layers=[digest] * LAYERS_MAX,
        environment=of_registry,
        workdir="/" + '"' * 4094,
        size_bytes=2**63 - 1,
    )
    carried = await environment.recorded(PROJECT, inherited)
    child = image.committed(
        context,
        operation_id=run.id,
        layer=digest,
        environment=carried,
        workdir=PATH,
        size_bytes=2**63 - 1,
    )
    return iter((project, token, file, tag, reading, pull, run, failed, image, child))


async def test_every_kind_of_event_fits_at_its_largest() -> None:
    world = World()
    await world.log.append(*await _largest(world))
    sizes: dict[str, int] = {}
    for stored in world.log.stored:
        sizes[stored.topic] = max(sizes.get(stored.topic, 0), len(stored.state))
    assert sorted(sizes) == [
        t for t in event_types() if t.startswith("contree.") and ".test." not in t
    ]
    assert max(sizes.values()) <= EVENT_BYTES_MAX
