"""Compare a replay with the run it repeats, from what the log and the stores hold of both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final
from uuid import UUID

from contree.app.content.project_content import ProjectContent
from contree.app.event_log import EventLog
from contree.app.images.layer_comparison import EntryDifference, LayerComparer, LayerEntry
from contree.app.images.layer_store import EntryType, ImageFiles
from contree.app.reads import ImageReads, OperationReads, OperationRow
from contree.domain.errors import (
    ContentErasedError,
    InvalidTransitionError,
    NotFoundError,
    WrongFileTypeError,
)
from contree.domain.image import Image
from contree.domain.instance import InstanceSpec
from contree.domain.operation import MAIN_SPID, Operation
from contree.domain.outcome import CapturedStream, ProcessOutcome
from contree.domain.replay_report import (
    Ended,
    FileDifference,
    FilesystemComparison,
    ReplayReport,
    Resources,
    StreamComparison,
    StreamSide,
)
from contree.domain.text_difference import (
    COMPARED_BYTES_MAX,
    Cause,
    TextDifference,
    causes_of,
    first_difference,
)

DIFFERENCES_MAX: Final = 1000
"""Files that a report names; beyond them it says that there are more."""

FILES_READ_MAX: Final = 50
"""Differing files that are opened to find where they differ, and why."""

PRESENCE: Final = "presence"
CONTENT: Final = "content"


class CompareReplay:
    """Answers from facts: the same question gives the same answer, as long as content is kept."""

    def __init__(
        self,
        *,
        log: EventLog,
        images: ImageReads,
        operations: OperationReads,
        content: ProjectContent,
        layers: LayerComparer,
        files: ImageFiles,
    ) -> None:
        self._log = log
        self._images = images
        self._operations = operations
        self._content = content
        self._layers = layers
        self._files = files

    async def compare(self, project_id: UUID, replay_id: UUID) -> ReplayReport:
        """Compare the operation `replay_id` with what it is a replay of.

        Raises NotFoundError and InvalidTransitionError (no replay, or not ended).
        """
        replay = await self._row(project_id, replay_id)
        if replay.replay_of is None:
            raise InvalidTransitionError(f"operation {replay_id} is no replay")
        if not replay.status.is_terminal:
            raise InvalidTransitionError(
                f"operation {replay_id} is {replay.status.value}: compare it when it has ended"
            )
        original = await self._row(project_id, replay.replay_of)
        outcomes = (_outcome(original), _outcome(replay))
        return ReplayReport(
            original_id=original.operation_id,
            replay_id=replay_id,
            ended=(_ended(original, outcomes[0]), _ended(replay, outcomes[1])),
            stdout=await self._streams(project_id, *(_stdout(o) for o in outcomes)),
            stderr=await self._streams(project_id, *(_stderr(o) for o in outcomes)),
            filesystem=await self._filesystem(original, replay),
            resources=(_resources(original, outcomes[0]), _resources(replay, outcomes[1])),
            not_replayed=await self._not_replayed(original),
        )

    async def _row(self, project_id: UUID, operation_id: UUID) -> OperationRow:
        row = await self._operations.get(project_id, operation_id)
        if row is None:
            raise NotFoundError("operation", operation_id)
        return row

    async def _streams(
        self, project_id: UUID, original: CapturedStream | None, replay: CapturedStream | None
    ) -> StreamComparison:
        sides = _side(original), _side(replay)
        if sides[0] == sides[1] or original is None or replay is None:
            causes = frozenset[Cause]() if sides[0] == sides[1] else frozenset({Cause.UNEXPLAINED})
            return StreamComparison(original=sides[0], replay=sides[1], causes=causes)
        try:
            one = await self._content.read_bytes(project_id, original.sha256)
            other = await self._content.read_bytes(project_id, replay.sha256)
        except (NotFoundError, ContentErasedError):
            return StreamComparison(
                original=sides[0], replay=sides[1], causes=frozenset({Cause.UNEXPLAINED})
            )
        return StreamComparison(
            original=sides[0],
            replay=sides[1],
            first_difference=first_difference(one, other),
            # Equal in what was kept, and different in what was not: nobody knows why.
            causes=causes_of(one, other) or frozenset({Cause.UNEXPLAINED}),
        )

    async def _filesystem(
        self, original: OperationRow, replay: OperationRow
    ) -> FilesystemComparison:
        if InstanceSpec.from_fact(original.request).disposable:
            return FilesystemComparison(not_compared="the run was disposable: no delta was kept")
        one, other = await self._result(original), await self._result(replay)
        if one is None or other is None:
            return FilesystemComparison(not_compared="one of the two left no image")
        try:
            found = await self._layers.compare(
                _own_layer(one, original), _own_layer(other, replay), limit=DIFFERENCES_MAX
            )
        except NotFoundError:
            return FilesystemComparison(not_compared="a delta is no longer kept")
        differences = []
        budget = FILES_READ_MAX
        for difference in found.differences:
            texts = None
            if budget and _both_readable(difference):
                budget -= 1
                texts = await self._texts(one, other, difference.path)
            differences.append(_file_difference(difference, texts))
        return FilesystemComparison(
            equal_count=found.equal_count, differences=differences, truncated=found.truncated
        )

    async def _result(self, row: OperationRow) -> Image | None:
        if row.result_image_id is None:
            return None
        return await self._log.load(Image, row.result_image_id)

    async def _texts(self, one: Image, other: Image, path: str) -> tuple[bytes, bytes] | None:
        try:
            return await self._text(one, path), await self._text(other, path)
        except (NotFoundError, WrongFileTypeError):
            return None

    async def _text(self, image: Image, path: str) -> bytes:
        layers = await self._images.stack(image.project_id, image.id)
        content = await self._files.open(layers, path)
        return b"".join([chunk async for chunk in content.chunks])

    async def _not_replayed(self, original: OperationRow) -> Sequence[str]:
        """What clients did to the original while it ran is no part of its request."""
        said = []
        stdin = InstanceSpec.from_fact(original.request).stdin
        if stdin is not None and not stdin.close:
            said.append("what was written to its standard input while it ran")
        operation = await self._log.load(Operation, original.operation_id)
        further = 0 if operation is None else operation.last_spid - MAIN_SPID
        if further:
            said.append(f"{further} further processes that clients started in it")
        return said


def _outcome(row: OperationRow) -> ProcessOutcome | None:
    return None if row.outcome is None else ProcessOutcome.from_fact(row.outcome)


def _stdout(outcome: ProcessOutcome | None) -> CapturedStream | None:
    return None if outcome is None else outcome.stdout


def _stderr(outcome: ProcessOutcome | None) -> CapturedStream | None:
    return None if outcome is None else outcome.stderr


def _ended(row: OperationRow, outcome: ProcessOutcome | None) -> Ended:
    return Ended(
        status=row.status.value,
        error=row.error,
        exit_code=None if outcome is None else outcome.exit_code,
        signal=None if outcome is None else outcome.signal,
        timed_out=outcome is not None and outcome.timed_out,
        oom_killed=outcome is not None and outcome.oom_killed,
    )


def _resources(row: OperationRow, outcome: ProcessOutcome | None) -> Resources:
    if outcome is None:
        return Resources(duration_us=row.duration_us, usage=None)
    return Resources(duration_us=outcome.duration_us, usage=outcome.usage)


def _side(stream: CapturedStream | None) -> StreamSide | None:
    if stream is None:
        return None
    return StreamSide(
        sha256=stream.sha256,
        size_bytes=stream.size_bytes,
        dropped_bytes=stream.dropped_bytes,
    )


def _own_layer(image: Image, row: OperationRow) -> str | None:
    """The diff_id of what the run itself added; None when it changed no file."""
    own = image.operation_id == row.operation_id and bool(row.image_size_bytes)
    return image.own_layers[-1] if own else None


def _both_readable(difference: EntryDifference) -> bool:
    one, other = difference.original, difference.replay
    if one is None or other is None or one.sha256 == other.sha256:
        return False
    return all(
        side.type is EntryType.REGULAR and side.size_bytes <= COMPARED_BYTES_MAX
        for side in (one, other)
    )


def _file_difference(
    difference: EntryDifference, texts: tuple[bytes, bytes] | None
) -> FileDifference:
    one, other = difference.original, difference.replay
    if one is None or other is None:
        return FileDifference(
            path=difference.path,
            fields=(PRESENCE,),
            original={} if one is None else _values(one),
            replay={} if other is None else _values(other),
            causes=frozenset({Cause.UNEXPLAINED}),
        )
    values = _values(one), _values(other)
    fields = [name for name in values[0] if values[0][name] != values[1][name]]
    first: TextDifference | None = None
    causes = _causes(fields)
    if CONTENT in fields:
        causes |= {Cause.UNEXPLAINED} if texts is None else causes_of(*texts)
        first = None if texts is None else first_difference(*texts)
    return FileDifference(
        path=difference.path,
        fields=fields,
        original={name: values[0][name] for name in fields},
        replay={name: values[1][name] for name in fields},
        first_difference=first,
        causes=causes,
    )


def _causes(fields: Collection[str]) -> frozenset[Cause]:
    """Times differ because of the clock; a size alone says nothing that the content does not."""
    causes = frozenset({Cause.CLOCK}) if "mtime" in fields else frozenset()
    if set(fields) - {"mtime", "size", CONTENT}:
        causes |= {Cause.UNEXPLAINED}
    return causes


def _values(entry: LayerEntry) -> Mapping[str, object]:
    """What a report compares of an entry, by the names it shows."""
    return {
        "type": "removed" if entry.type is None else entry.type.value,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime_s,
        "size": entry.size_bytes,
        "symlink_to": entry.symlink_to,
        "device": list(entry.device),
        "xattrs": {name: value.hex() for name, value in entry.xattrs.items()},
        "opaque": entry.opaque,
        CONTENT: entry.sha256,
    }
