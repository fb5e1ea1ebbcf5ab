"""The bundle that proves one operation to somebody who has neither our database nor our server.

    {"format": "contree/proof-bundle/v1",
     "operation": "…", "image": "…" or null,      the image it left, if any
     "public_key": "name+id+key",                  whose checkpoint it is
     "checkpoint": "…",                            the signed note, as it is
     "events": [{"leaf": 0, "proof": ["…", …],     base64, from the leaf's sibling upwards
                 "event": {…}}, …]}                see event_text; in the order of the log

It proves that these events are in the signed log, unchanged, and that none is missing before the
last one of each aggregate (versions count from 1). It cannot prove that nothing came afterwards; an
operation that has ended has no further events.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from contree.app.proof.event_text import BAD_JSON, EventText
from contree.app.proof.note_keys import SignatureCheck
from contree.app.proof.signed import SignedCheckpoint, opened
from contree.domain.checkpoint import Checkpoint
from contree.domain.errors import InvalidFieldError
from contree.domain.log_row import leaf_hash
from contree.domain.merkle import root_of_inclusion
from contree.domain.note import VerifierKey, b64decoded

FORMAT = "contree/proof-bundle/v1"
SUCCEEDED = "contree.operation.succeeded"


class ProvenEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event, its leaf number and its inclusion proof."""

    leaf: int
    proof: list[str]
    event: EventText


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape above."""

    format: str
    operation: str
    image: str | None
    public_key: str
    checkpoint: str
    events: list[ProvenEvent]

    def encoded(self) -> bytes:
        """As a file, indented for people."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What a file proves. `key_is_its_own`: nobody but the file vouches for the key."""

    what: str
    events: Sequence[EventText]
    event_count: int
    signed: SignedCheckpoint
    key_is_its_own: bool


def check_bundle(data: bytes, *, keys: Sequence[VerifierKey], check: SignatureCheck) -> Proven:
    """Return what a bundle proves. `keys` are known from elsewhere; without any, its own is taken.

    Raises InvalidFieldError saying what is wrong with it.
    """
    try:
        bundle = msgspec.json.decode(data, type=Bundle)
    except BAD_JSON as error:
        raise InvalidFieldError("bundle", f"is not whole, or not a bundle: {error}") from error
    if bundle.format != FORMAT:
        raise InvalidFieldError("format", f"is '{bundle.format}', this release reads '{FORMAT}'")
    signed = trusted(bundle.public_key, bundle.checkpoint, keys=keys, check=check)
    if not bundle.events:
        raise InvalidFieldError("events", "there are none")
    for number, proven in enumerate(bundle.events):
        try:
            _check_event(proven, signed.checkpoint)
        except InvalidFieldError as error:
            raise InvalidFieldError(f"events[{number}]", str(error)) from error
    _check_order(bundle.events)
    events = [proven.event for proven in bundle.events]
    _check_whole(bundle, events)
    return Proven(
        what=f"operation {bundle.operation}"
        + (f" and its image {bundle.image}" if bundle.image else "")
        + f": {len(events)} events",
        events=events,
        event_count=len(events),
        signed=signed,
        key_is_its_own=not keys,
    )


def trusted(
    public_key: str, note: str, *, keys: Sequence[VerifierKey], check: SignatureCheck
) -> SignedCheckpoint:
    """The checkpoint of a file, by its key. Raises InvalidFieldError."""
    key = VerifierKey.parse(public_key)
    if keys and key not in keys:
        raise InvalidFieldError("public_key", f"is {key}, not a key that was given")
    return opened(note.encode(), [key], check)


def result_image_of(events: Sequence[EventText]) -> UUID | None:
    """The image that an operation's events say it left. Raises InvalidFieldError."""
    for event in events:
        if event.topic == SUCCEEDED:
            try:
                value: Any = json.loads(event.state_bytes)["result_image_id"]
                return None if value is None else UUID(value["_data_"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise InvalidFieldError("state", "does not name the result image") from error
    return None


def _check_event(proven: ProvenEvent, checkpoint: Checkpoint) -> None:
    proof = [b64decoded(value, field="proof") for value in proven.proof]
    leaf = leaf_hash(proven.event.row())
    if root_of_inclusion(leaf, proven.leaf, checkpoint.size, proof) != checkpoint.root:
        raise InvalidFieldError(
            "proof",
            f"does not lead from the event at position {proven.event.position}, as leaf "
            f"{proven.leaf}, to the root of the checkpoint",
        )


def _check_order(events: Sequence[ProvenEvent]) -> None:
    for one, next_ in itertools.pairwise(events):
        if one.leaf >= next_.leaf or one.event.position >= next_.event.position:
            raise InvalidFieldError("events", f"leaf {next_.leaf} is not in the order of the log")


def _check_whole(bundle: Bundle, events: Sequence[EventText]) -> None:
    """The events are those of the operation and its image, from the first on, without a gap."""
    versions: dict[str, int] = {}
    for event in events:
        if event.aggregate_id not in (bundle.operation, bundle.image):
            raise InvalidFieldError(
                "events", f"the event at position {event.position} is of another aggregate"
            )
        expected = versions.get(event.aggregate_id, 0) + 1
        if event.version != expected:
            raise InvalidFieldError(
                "events", f"version {expected} of {event.aggregate_id} is missing"
            )
        versions[event.aggregate_id] = event.version
    if bundle.operation not in versions:
        raise InvalidFieldError("operation", "none of the events is of it")
    image = result_image_of([e for e in events if e.aggregate_id == bundle.operation])
    if bundle.image != (None if image is None else str(image)):
        raise InvalidFieldError("image", f"is not {image}, which the operation left")
    if bundle.image is not None and bundle.image not in versions:
        raise InvalidFieldError("image", "none of the events is of it")
