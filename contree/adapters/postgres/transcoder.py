"""Event payloads as JSON by orjson, byte for byte readable by the stock library.

The convention is the library's own: a value that JSON lacks is `{"_type_": name, "_data_": text}`.
Either of this and `eventsourcing.persistence.JSONTranscoder` reads what the other wrote. It refuses
types it does not know, and a mapping from outside that would read as such a marked value: once
stored, that event could never be decoded again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import orjson
from eventsourcing.persistence import (
    DatetimeAsISO,
    DecimalAsStr,
    Mapper,
    StoredEvent,
    Transcoder,
    Transcoding,
    UUIDAsHex,
)

# Whoever reads the log must know each event by its topic, whatever else it imports.
from contree.domain import (  # noqa: F401 - for their topics
    audit_reading,
    file,
    image,
    operation,
    project,
    tag,
    token,
)
from contree.domain.aggregate import Event
from contree.domain.errors import InvalidFieldError

OPTIONS = (
    orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
)
MARKED_KEYS = {"_type_", "_data_"}
"""A dict of exactly these is a marked value."""
PLAIN = {str, int, float, bool, type(None), datetime}
"""What a dict mostly holds, and what neither is nor holds a UUID."""


class OrjsonTranscoder(Transcoder):
    """Encodes event states to bytes and back."""

    def __init__(self) -> None:
        known: tuple[Transcoding, ...] = (UUIDAsHex(), DatetimeAsISO(), DecimalAsStr())
        self._types = {transcoding.type: transcoding for transcoding in known}
        self._names = {transcoding.name: transcoding for transcoding in known}

    def encode(self, obj: Any) -> bytes:
        """Raise InvalidFieldError, naming the key, for a mapping that reads as a marked value."""
        return orjson.dumps(self._uuids_marked(obj, "event"), default=self._marked, option=OPTIONS)

    def decode(self, data: bytes) -> Any:
        value = orjson.loads(data)
        return self._unmarked(value) if b'"_type_"' in data else value

    def _marked(self, value: Any) -> dict[str, Any]:
        transcoding = self._types.get(type(value))
        if transcoding is None:
            raise TypeError(f"{type(value)} cannot be part of an event")
        return {"_type_": transcoding.name, "_data_": transcoding.encode(value)}

    def _uuids_marked(self, value: Any, name: str) -> Any:
        """Mark UUIDs here: orjson writes them as plain strings, which would come back as such."""
        kind = type(value)
        if isinstance(value, UUID):
            return {"_type_": UUIDAsHex.name, "_data_": value.hex}
        if kind is dict:
            if value.keys() == MARKED_KEYS:
                raise InvalidFieldError(name, "must not consist of '_type_' and '_data_' alone")
            return {
                key: item if type(item) in PLAIN else self._uuids_marked(item, key)
                for key, item in value.items()
            }
        if kind is list:
            # Long lists are lists of digests: do not copy them.
            if all(type(item) is str for item in value):
                return value
            return [self._uuids_marked(item, name) for item in value]
        return value

    def _unmarked(self, value: Any) -> Any:
        if type(value) is dict:
            if value.keys() == MARKED_KEYS:
                return self._names[value["_type_"]].decode(value["_data_"])
            for key, item in value.items():
                if type(item) in {dict, list}:
                    value[key] = self._unmarked(item)
        elif type(value) is list:
            for i, item in enumerate(value):
                if type(item) in {dict, list}:
                    value[i] = self._unmarked(item)
        return value


def event_mapper() -> Mapper[UUID]:
    """The library's mapper over this encoding."""
    return Mapper(OrjsonTranscoder())


def event_decoder() -> Callable[[UUID, int, str, bytes], Event]:
    """Return what turns a row of the log (aggregate, version, topic, state) into its event."""
    mapper = event_mapper()

    def decoded(aggregate_id: UUID, version: int, topic: str, state: bytes) -> Event:
        stored = StoredEvent(aggregate_id, version, topic, state)
        return cast(Event, mapper.to_domain_event(stored))

    return decoded
