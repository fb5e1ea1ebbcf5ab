"""An event of the log as JSON, in bundles and exports: all that its hash covers, exactly.

    {"position": 7, "aggregate_id": "…", "version": 1, "recorded_at": "2026-01-02T03:04:05.678901Z",
     "topic": "contree.…", "state": "{…}"}

`state` is the event's encoded fields as they lie in the log, a string; bytes that are not UTF-8,
which our service never writes, stand base64-encoded under `state_base64` instead.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from contree.app.recorded_log import RecordedEvent
from contree.domain.errors import InvalidFieldError
from contree.domain.log_row import row_bytes
from contree.domain.note import b64decoded

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding of strangers' bytes raises, all of it."""


class EventText(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The shape above."""

    position: int
    aggregate_id: str
    version: int
    recorded_at: str
    topic: str
    state: str | None = None
    state_base64: str | None = None

    @classmethod
    def of(cls, event: RecordedEvent) -> EventText:
        try:
            state, encoded = event.state.decode(), None
        except UnicodeDecodeError:
            state, encoded = None, base64.b64encode(event.state).decode()
        return cls(
            position=event.position,
            aggregate_id=str(event.aggregate_id),
            version=event.version,
            recorded_at=f"{event.recorded_at:{TIME_FORMAT}}",
            topic=event.topic,
            state=state,
            state_base64=encoded,
        )

    @property
    def aggregate(self) -> UUID:
        """Raises InvalidFieldError unless it is written as we write it."""
        try:
            value = UUID(self.aggregate_id)
        except ValueError as error:
            raise InvalidFieldError("aggregate_id", "is not a UUID") from error
        if str(value) != self.aggregate_id:
            raise InvalidFieldError("aggregate_id", "is not written in the usual form")
        return value

    @property
    def state_bytes(self) -> bytes:
        """Raises InvalidFieldError."""
        if (self.state is None) == (self.state_base64 is None):
            raise InvalidFieldError("state", "give one of state and state_base64")
        if self.state is not None:
            return self.state.encode()
        data = b64decoded(self.state_base64 or "", field="state_base64")
        try:
            data.decode()
        except UnicodeDecodeError:
            return data
        raise InvalidFieldError("state_base64", "is UTF-8 and belongs into state")

    def row(self) -> bytes:
        """The bytes that hashes cover. Raises InvalidFieldError naming the field."""
        try:
            at = datetime.strptime(self.recorded_at, TIME_FORMAT).replace(tzinfo=UTC)
        except ValueError as error:
            raise InvalidFieldError("recorded_at", "is not YYYY-MM-DDTHH:MM:SS.ffffffZ") from error
        if f"{at:{TIME_FORMAT}}" != self.recorded_at:
            raise InvalidFieldError("recorded_at", "is not YYYY-MM-DDTHH:MM:SS.ffffffZ")
        try:
            return row_bytes(
                position=self.position,
                aggregate_id=self.aggregate,
                version=self.version,
                recorded_at=at,
                topic=self.topic,
                state=self.state_bytes,
            )
        except (OverflowError, UnicodeEncodeError) as error:
            raise InvalidFieldError("event", "holds what no event of a log can hold") from error
