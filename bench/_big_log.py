"""A log of a million events in a minute: the service's own event states, copied past its triggers.

Each operation is a run on an earlier image that leaves an image: requested, assigned, started,
image committed, succeeded. Every hundredth image gets the tag `latest`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from contree.adapters.postgres.transcoder import event_mapper
from contree.domain.aggregate import Aggregate
from contree.domain.context import Context
from contree.domain.image import Image, RecordedEnvironment, committed_image_id, imported_image_id
from contree.domain.instance import InstanceSpec
from contree.domain.operation import Operation
from contree.domain.outcome import CapturedStream, ProcessOutcome
from contree.domain.tag import Tag, tag_id_of

EVENTS_PER_OPERATION = 5
TAG_EVERY = 100
COPY_ROWS = 50_000
OPERATION = UUID(int=1 << 120 | 0xBE)
IMAGE = committed_image_id(OPERATION)
PARENT_DIGEST = "sha256:parent"
"""These and the parent's id stand in the templates for the ids of each operation."""

AT = datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

Row = tuple[UUID, int, str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class BigLog:
    """What was made. Ids spread over their indexes, as real ones do."""

    project_id: UUID
    operation_count: int
    began: datetime

    def operation_id(self, number: int) -> UUID:
        return UUID(int=(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)

    def image_id(self, number: int) -> UUID:
        return UUID(int=(number + 1) * 0xC2B2AE3D27D4EB4F165667B19E3779F9 % 2**128)

    def rows(self) -> Iterator[Row]:
        """Yield every event in its stored form."""
        templates, moves = _templates(self.project_id), _tag_templates(self.project_id)
        parent = imported_image_id(self.project_id, PARENT_DIGEST)
        tag_id, moved = tag_id_of(self.project_id, "latest"), 0
        for number in range(self.operation_count):
            at = (self.began + timedelta(milliseconds=number)).isoformat().encode()
            ids = {
                OPERATION: self.operation_id(number),
                IMAGE: self.image_id(number),
                parent: self.image_id(number // 10) if number else parent,
            }
            for of, version, topic, state in templates:
                yield ids[of], version, topic, _filled(state, ids, at)
            if number % TAG_EVERY == 0:
                topic, state = moves[min(moved, 1)]
                moved += 1
                yield tag_id, moved, topic, _filled(state, ids, at)


async def load(dsn: str, log: BigLog) -> int:
    """Copy the log into the database of `dsn` (an owner's); return the number of events."""
    connection = await asyncpg.connect(dsn)
    columns = ("originator_id", "originator_version", "topic", "state")
    count, rows = 0, log.rows()
    try:
        while batch := [row for row, _ in zip(rows, range(COPY_ROWS), strict=False)]:
            await connection.copy_records_to_table("stored_events", records=batch, columns=columns)
            count += len(batch)
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    return count


def _templates(project_id: UUID) -> list[tuple[UUID, int, str, bytes]]:
    context = Context(actor="bench", project_id=project_id, request_id="bench", at=AT)
    parent = Image.imported(
        context,
        operation_id=OPERATION,
        registry_url="docker://bench",
        manifest_digest="sha256:m",
        config_digest=PARENT_DIGEST,
        layers=["sha256:0"],
        environment=RecordedEnvironment(),
        workdir="/",
        size_bytes=1,
    )
    spec = InstanceSpec(image_id=parent.id, command="make", args=("all",), timeout_s=30)
    run = Operation.request_instance(context, operation_id=OPERATION, spec=spec)
    run.assign(context, worker="bench", lease_until=AT)
    run.start(context, accelerator="tcg")
    image = parent.committed(
        context,
        operation_id=OPERATION,
        layer="sha256:1",
        workdir="/",
        size_bytes=9,
    )
    nothing = CapturedStream(sha256=EMPTY_SHA256, size_bytes=0)
    outcome = ProcessOutcome(
        pid=7,
        exit_code=0,
        signal=-1,
        core_dumped=False,
        timed_out=False,
        oom_killed=False,
        duration_us=1000,
        stdout=nothing,
        stderr=nothing,
    )
    run.succeed(context, result_image_id=IMAGE, image_size_bytes=9, outcome=outcome)
    *before, ended = _stored(run)
    return [
        *((OPERATION, *event) for event in before),
        *((IMAGE, *event) for event in _stored(image)),
        (OPERATION, *ended),
    ]


def _tag_templates(project_id: UUID) -> list[tuple[str, bytes]]:
    """The first move of the tag, and every later one."""
    context = Context(actor="bench", project_id=project_id, request_id="bench", at=AT)
    first = Tag.assign(context, name="latest", image_id=IMAGE)
    later = Tag.assign(
        context, name="latest", image_id=imported_image_id(project_id, PARENT_DIGEST)
    )
    later.move(context, image_id=IMAGE)
    return [(topic, state) for _, topic, state in (_stored(first)[0], _stored(later)[1])]


def _stored(aggregate: Aggregate) -> list[tuple[int, str, bytes]]:
    mapper = event_mapper()
    stored = [mapper.to_stored_event(event) for event in aggregate.collect_events()]
    return [(event.originator_version, event.topic, event.state) for event in stored]


def _filled(state: bytes, ids: dict[UUID, UUID], at: bytes) -> bytes:
    for mark, id_ in ids.items():
        state = state.replace(mark.hex.encode(), id_.hex.encode())
        state = state.replace(str(mark).encode(), str(id_).encode())
    return state.replace(AT.isoformat().encode(), at)
