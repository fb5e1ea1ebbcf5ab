"""Makes the bundle that proves an operation (see bundle)."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from contree.app.proof.bundle import FORMAT, Bundle, ProvenEvent, check_bundle, result_image_of
from contree.app.proof.event_text import EventText
from contree.app.proof.growth import LogAlteredError
from contree.app.proof.log_rows import LogRows
from contree.app.proof.log_tree import LogTree
from contree.app.proof.note_keys import SignatureCheck
from contree.app.proof.signed import SignedCheckpoint
from contree.app.proof.tree_reader import inclusion_proofs
from contree.app.recorded_log import RecordedEvent
from contree.domain.errors import (
    InvalidFieldError,
    LimitExceededError,
    NotFoundError,
    TooEarlyError,
)
from contree.domain.note import b64encoded

OPERATION_TOPICS = "contree.operation."
EVENTS_MAX = 10_000
"""Of one bundle. An operation has some ten; each steering of a process adds one."""


class Prove:
    """`newest` is the checkpoint that the proofs lead to."""

    def __init__(
        self,
        *,
        rows: LogRows,
        tree: LogTree,
        newest: SignedCheckpoint,
        check: SignatureCheck,
    ) -> None:
        self._rows = rows
        self._tree = tree
        self._newest = newest
        self._check = check

    async def operation(self, operation_id: UUID) -> Bundle:
        """Return a bundle that has been checked.

        Raises NotFoundError; TooEarlyError when the checkpoint does not cover all of it yet;
        LogAlteredError when the log is not what was signed; LimitExceededError.
        """
        events = await self._events(operation_id)
        image = result_image_of([EventText.of(event) for event in events])
        if image is not None:
            events = await self._events(operation_id, image)
        leaves = [await self._tree.leaves_before(event.position) for event in events]
        size = self._newest.checkpoint.size
        if leaves[-1] >= size:
            raise TooEarlyError(
                f"the newest checkpoint covers {size} events, this needs one over at least "
                f"{leaves[-1] + 1}: it is signed within the checkpoint interval by the worker "
                "that has the key"
            )
        proofs = await inclusion_proofs(self._tree, leaves, size)
        bundle = Bundle(
            format=FORMAT,
            operation=str(operation_id),
            image=None if image is None else str(image),
            public_key=str(self._newest.key),
            checkpoint=self._newest.note.decode(),
            events=[
                ProvenEvent(
                    leaf=leaf,
                    proof=[b64encoded(value) for value in proofs[leaf]],
                    event=EventText.of(event),
                )
                for leaf, event in zip(leaves, events, strict=True)
            ],
        )
        try:
            check_bundle(bundle.encoded(), keys=[self._newest.key], check=self._check)
        except InvalidFieldError as error:
            raise LogAlteredError(
                f"the log does not prove it: {error}. `contreed audit verify` says more"
            ) from error
        return bundle

    async def _events(self, *aggregates: UUID) -> Sequence[RecordedEvent]:
        events = await self._rows.of_aggregates(aggregates, limit=EVENTS_MAX + 1)
        if not any(event.topic.startswith(OPERATION_TOPICS) for event in events):
            raise NotFoundError("operation", aggregates[0])
        if len(events) > EVENTS_MAX:
            raise LimitExceededError("events", f"a bundle holds at most {EVENTS_MAX}: use export")
        return events
