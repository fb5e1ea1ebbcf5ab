"""The payload encoding beside the library's own JSONTranscoder: each reads what the other wrote."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from eventsourcing.persistence import DatetimeAsISO, JSONTranscoder, UUIDAsHex
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.domain.errors import InvalidFieldError

OURS = OrjsonTranscoder()
STOCK = JSONTranscoder()
STOCK.register(UUIDAsHex())
STOCK.register(DatetimeAsISO())

AWARE = st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-3, minutes=-30))))
TEXT = st.text(st.characters(codec="utf-8"))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.uuids()
    | AWARE
)
STATES = st.dictionaries(
    TEXT,
    st.recursive(SCALARS, lambda s: st.lists(s, max_size=4) | st.dictionaries(TEXT, s, max_size=4)),
    max_size=5,
)


@given(state=STATES)
def test_ours_and_the_librarys_encodings_are_read_by_either(state: dict[str, object]) -> None:
    assert OURS.decode(OURS.encode(state)) == state
    assert STOCK.decode(OURS.encode(state)) == state
    assert OURS.decode(STOCK.encode(state)) == state


def test_values_come_back_with_their_types() -> None:
    state = {"id": UUID(int=1), "at": datetime(2026, 1, 1, tzinfo=UTC), "in": [{"id": UUID(int=2)}]}
    decoded = OURS.decode(OURS.encode(state))
    assert type(decoded["id"]) is UUID
    assert type(decoded["in"][0]["id"]) is UUID
    assert decoded["at"].tzinfo is not None


def test_a_uuid_class_of_a_driver_is_a_uuid() -> None:
    class DriverUUID(UUID):
        pass

    assert OURS.decode(OURS.encode({"id": DriverUUID(int=1)})) == {"id": UUID(int=1)}


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(TypeError):
        OURS.encode({"value": object()})


@pytest.mark.parametrize("place", [{"env": None}, {"spec": {"env": None}}, {"env": [None]}])
def test_a_mapping_that_reads_as_a_marked_value_is_refused_by_name(
    place: dict[str, object],
) -> None:
    def filled(value: object) -> object:
        if value is None:
            return {"_type_": "uuid_hex", "_data_": "zz"}
        if isinstance(value, list):
            return [filled(v) for v in value]
        assert isinstance(value, dict)
        return {k: filled(v) for k, v in value.items()}

    with pytest.raises(InvalidFieldError) as refused:
        OURS.encode(filled(place))
    assert refused.value.field == "env"


def test_one_of_the_two_names_alone_is_plain_data() -> None:
    state = {"env": {"_type_": "x"}, "other": {"_type_": "x", "_data_": "y", "z": "w"}}
    assert OURS.decode(OURS.encode(state)) == state
