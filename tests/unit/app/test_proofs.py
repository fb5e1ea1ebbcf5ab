"""Bundles and exports: what was written proves itself, and nothing that differs does."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from contree.adapters.system.note_keys import is_signature
from contree.app.proof.bundle import Bundle, Proven, check_bundle
from contree.app.proof.export import Export, check_export, is_export
from contree.app.proof.growth import LogAlteredError
from contree.app.proof.prove import Prove
from contree.app.proof.signed import SignedCheckpoint
from contree.domain.errors import InvalidFieldError, NotFoundError, TooEarlyError
from contree.domain.note import VerifierKey
from contree.domain.operation import Operation, Status
from tests.support.proofs import ProofWorld, SeededSigner

STEPS = 300


class Proofs:
    """A signed log of some 320 events, and an operation in it that left an image."""

    def __init__(self, world: ProofWorld, newest: SignedCheckpoint, operation_id: UUID) -> None:
        self.world, self.newest, self.operation_id = world, newest, operation_id

    async def bundle(self) -> bytes:
        return (await self.prove(self.operation_id)).encoded()

    async def prove(self, operation_id: UUID) -> Bundle:
        prove = Prove(
            rows=self.world.rows, tree=self.world.tree, newest=self.newest, check=is_signature
        )
        return await prove.operation(operation_id)

    async def export(self, *, after: int = 0, until: int | None = None) -> bytes:
        export = Export(recorded=self.world.recorded, tree=self.world.tree, newest=self.newest)
        return b"".join([piece async for piece in export.lines(after=after, until=until)])


@pytest.fixture
async def proofs() -> Proofs:
    world = ProofWorld(seed=5)
    await world.append(STEPS)
    newest = await world.checkpoints().advance()
    assert newest is not None
    operation_id = next(
        a.id
        for a in world.history.aggregates.values()
        if isinstance(a, Operation) and a.status is Status.SUCCESS and a.result_image_id
    )
    return Proofs(world, newest, operation_id)


def checked(data: bytes, *keys: VerifierKey) -> Proven:
    if is_export(data.partition(b"\n")[0]):
        return check_export(io.BytesIO(data), keys=keys, check=is_signature)
    return check_bundle(data, keys=keys, check=is_signature)


def passes(data: bytes) -> bool:
    try:
        checked(data)
    except InvalidFieldError:
        return False
    return True


def altered(value: Any) -> Iterator[Any]:
    """Other values in the place of a leaf of JSON: near ones, and of other types."""
    if isinstance(value, str):
        middle = len(value) // 2
        yield from (value + "0", value[:-1], "", value.swapcase(), f" {value}")
        yield value[:middle] + chr(ord(value[middle]) ^ 1) + value[middle + 1 :] if value else "x"
    elif isinstance(value, int):
        yield from (value + 1, value - 1, -value - 1, 2**63, 2**64, 10**400, value + 0.5)
    yield from (None, [], {}, [value], "\x00", "\ud800", True)


def edits(document: Any) -> Iterator[tuple[str, Any]]:
    """Every document that differs from `document` in one leaf, or lacks one entry."""

    def places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if path:
            yield path
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                yield from places(value[key], (*path, key))

    def at(root: Any, path: tuple[Any, ...]) -> Any:
        for key in path:
            root = root[key]
        return root

    for path in places(document, ()):
        before = at(document, path)
        if not isinstance(before, dict | list):
            for other in altered(before):
                if other == before and type(other) is type(before):
                    continue
                changed = copy.deepcopy(document)
                at(changed, path[:-1])[path[-1]] = other
                yield f"{path} = {other!r:.80}", changed
        changed = copy.deepcopy(document)
        del at(changed, path[:-1])[path[-1]]
        yield f"without {path}", changed


async def test_a_bundle_proves_its_operation_and_image(proofs: Proofs) -> None:
    data = await proofs.bundle()
    proven = checked(data, proofs.world.signer.key)
    ids = {event.aggregate_id for event in proven.events}
    assert str(proofs.operation_id) in ids
    assert len(ids) == 2
    assert proven.event_count == sum(
        str(e.aggregate_id) in ids for e in proofs.world.recorded.events
    )
    assert proven.signed == proofs.newest
    assert not proven.key_is_its_own
    assert checked(data).key_is_its_own


async def test_every_operation_of_a_log_can_be_proven(proofs: Proofs) -> None:
    operations = [a for a in proofs.world.history.aggregates.values() if isinstance(a, Operation)]
    for operation in operations:
        assert checked((await proofs.prove(operation.id)).encoded()).events
    assert len({o.status for o in operations}) > 3


async def test_every_edit_of_a_bundle_is_found(proofs: Proofs) -> None:
    document = json.loads(await proofs.bundle())
    count = 0
    for what, changed in edits(document):
        count += 1
        assert not passes(json.dumps(changed).encode()), what
    assert count > 500


async def test_a_changed_byte_of_a_bundle_changes_nothing_that_counts(proofs: Proofs) -> None:
    """What passes says the same: a byte of white space between its parts was changed."""
    data = await proofs.bundle()
    same = json.loads(data)
    for at in range(len(data)):
        for flipped in {data[at] ^ 1, data[at] ^ 0x20, data[at] ^ 0x80}:
            changed = data[:at] + bytes([flipped]) + data[at + 1 :]
            try:
                checked(changed)
            except InvalidFieldError:
                continue
            assert json.loads(changed) == same, at


async def test_a_bundle_that_ends_early_is_found(proofs: Proofs) -> None:
    data = (await proofs.bundle()).rstrip()
    for end in range(len(data)):
        with pytest.raises(InvalidFieldError, match="bundle"):
            checked(data[:end])


async def test_a_bundle_of_another_key_is_refused(proofs: Proofs) -> None:
    data = await proofs.bundle()
    stranger = SeededSigner("stranger").key
    with pytest.raises(InvalidFieldError, match=r"public_key.*not a key that was given"):
        checked(data, stranger)
    document = json.loads(data) | {"public_key": str(stranger)}
    with pytest.raises(InvalidFieldError, match="not by a key that we know"):
        checked(json.dumps(document).encode())


async def test_the_checkpoint_of_another_log_is_refused(proofs: Proofs) -> None:
    document = json.loads(await proofs.bundle())
    other = ProofWorld(seed=6)
    other.signer = SeededSigner(name="contree/other")
    await other.append(STEPS)
    foreign = await other.checkpoints().advance()
    assert foreign is not None
    document["checkpoint"] = foreign.note.decode()
    with pytest.raises(InvalidFieldError, match="not by a key that we know"):
        checked(json.dumps(document).encode())
    document["public_key"] = str(foreign.key)
    with pytest.raises(InvalidFieldError, match="does not lead"):
        checked(json.dumps(document).encode())


@pytest.mark.parametrize("state", ["[" * 100_000, "[]", '{"result_image_id": {"_data_": 7}}'])
async def test_a_forged_state_is_an_error_like_others(proofs: Proofs, state: str) -> None:
    document = json.loads(await proofs.bundle())
    for proven in document["events"]:
        proven["event"]["state"] = state
    with pytest.raises(InvalidFieldError):
        checked(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"null", b"[]", b"{}", b"[" * 100_000, b'{"format":' * 100_000, b"\xff\x00"],
)
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFieldError):
        checked(data)


async def test_what_is_not_there_or_not_signed_yet_is_not_proven(proofs: Proofs) -> None:
    with pytest.raises(NotFoundError):
        await proofs.prove(UUID(int=7))
    late = next(
        o
        for o in proofs.world.history.aggregates.values()
        if isinstance(o, Operation) and o.status is Status.PENDING
    )
    while late.status is Status.PENDING:
        await proofs.world.append(1)
    with pytest.raises(TooEarlyError, match="covers"):
        await proofs.prove(late.id)


async def test_a_log_that_was_changed_is_not_proven(proofs: Proofs) -> None:
    events = proofs.world.recorded.events
    at, event = next((n, e) for n, e in enumerate(events) if e.aggregate_id == proofs.operation_id)
    events[at] = replace(event, topic=event.topic + "x")
    with pytest.raises(LogAlteredError, match="audit verify"):
        await proofs.prove(proofs.operation_id)
    with pytest.raises(LogAlteredError, match="audit verify"):
        await proofs.export()


async def test_every_range_of_an_export_proves_itself(proofs: Proofs) -> None:
    positions = [event.position for event in proofs.world.recorded.events]
    last = positions[-1]
    # Positions here are multiples of 3; those between belong to nobody.
    for after, until in (
        (0, None),
        (0, 3),
        (2, 4),
        (3, 6),
        (297, 600),
        (768, None),
        (last - 3, None),
    ):
        data = await proofs.export(after=after, until=until)
        proven = checked(data, proofs.world.signer.key)
        inside = [p for p in positions if after < p <= (until or last)]
        assert proven.event_count == len(inside)
        assert (proven.events[0].position, proven.events[-1].position) == (inside[0], inside[-1])
        assert proven.event_count == data.count(b"\n") - 1


@pytest.mark.parametrize(
    ("after", "until"),
    [
        (-1, None),
        (5, 5),
        (5, 4),
        (3, 5),
        (10**6, None),
        (10**6, 10**7),
        (2**63 - 1, None),
        (2**70, None),
        (0, -1),
    ],
)
async def test_a_range_without_events_is_refused(
    proofs: Proofs, after: int, until: int | None
) -> None:
    with pytest.raises(InvalidFieldError, match="after"):
        await proofs.export(after=after, until=until)


async def test_an_end_that_no_log_can_have_is_refused(proofs: Proofs) -> None:
    with pytest.raises(InvalidFieldError, match="until"):
        await proofs.export(until=2**63)


async def test_a_range_that_is_not_signed_yet_is_refused(proofs: Proofs) -> None:
    await proofs.world.append(5)
    until = proofs.world.recorded.events[-1].position
    with pytest.raises(TooEarlyError, match="covers"):
        await proofs.export(until=until)
    # Without an end, it is all that is signed.
    assert checked(await proofs.export()).event_count == proofs.newest.checkpoint.size


async def test_every_edit_of_an_export_is_found(proofs: Proofs) -> None:
    lines = (await proofs.export(after=300, until=318)).splitlines(keepends=True)
    count = 0
    for number, line in enumerate(lines):
        for what, changed in edits(json.loads(line)):
            count += 1
            edited = json.dumps(changed).encode() + b"\n"
            changed_file = b"".join([*lines[:number], edited, *lines[number + 1 :]])
            assert not passes(changed_file), f"line {number + 1}: {what}"
    assert count > 500


async def test_missing_added_and_moved_lines_of_an_export_are_found(proofs: Proofs) -> None:
    lines = (await proofs.export(after=300, until=330)).splitlines(keepends=True)
    for at in range(1, len(lines)):
        for changed in (
            lines[:at] + lines[at + 1 :],
            lines[: at + 1] + lines[at:],
            lines[:at],
            [*lines[:at], b"\n", *lines[at:]],
            [*lines[:at], lines[at][: len(lines[at]) // 2]],
            [*lines[: at - 1], lines[at], lines[at - 1], *lines[at + 1 :]] if at > 1 else lines[1:],
        ):
            with pytest.raises(InvalidFieldError):
                checked(b"".join(changed))
    header = json.loads(lines[0])
    for name, change in (("first_leaf", 1), ("first_leaf", -1), ("count", -1), ("count", 1)):
        edited = json.dumps(header | {name: header[name] + change}).encode() + b"\n"
        with pytest.raises(InvalidFieldError):
            checked(b"".join([edited, *lines[1:]]))


async def test_events_that_are_not_utf8_are_written_and_proven(proofs: Proofs) -> None:
    world = ProofWorld(seed=5)
    await world.append(10)
    event = world.recorded.events[4]
    world.recorded.events[4] = replace(event, state=b"\xff\x00")
    world.recorded.rechain()
    newest = await world.checkpoints().advance()
    assert newest is not None
    lines = await Proofs(world, newest, event.aggregate_id).export()
    assert base64.b64encode(b"\xff\x00") in lines
    assert checked(lines).event_count == len(world.recorded.events)
