"""Which id a beginning stands for."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest

from contree.app.short_ids import IdKind, parse_short_id
from contree.domain.errors import InvalidFieldError, NotFoundError

IMAGES = [
    UUID("0a1b0000-0000-0000-0000-000000000000"),
    UUID("0a1bffff-ffff-ffff-ffff-ffffffffffff"),
    UUID("0a1c0000-0000-0000-0000-000000000000"),
]


class Known:
    """Images alone, in memory."""

    async def between(self, kind: IdKind, low: UUID, high: UUID, *, limit: int) -> Sequence[UUID]:
        return [one for one in IMAGES if kind is IdKind.IMAGE and low <= one <= high][:limit]


@pytest.mark.parametrize("text", ["0a1c", "0A1C0000", "0a1c0000-0", str(IMAGES[2])])
async def test_the_beginning_of_one_id_is_that_id(text: str) -> None:
    assert await parse_short_id(text, field="IMAGE").whole(IdKind.IMAGE, Known()) == IMAGES[2]


async def test_a_whole_id_is_not_looked_up() -> None:
    text = "ffffffff-0000-0000-0000-000000000000"
    assert await parse_short_id(text, field="IMAGE").whole(IdKind.IMAGE, Known()) == UUID(text)


async def test_the_beginning_of_several_names_them() -> None:
    with pytest.raises(InvalidFieldError) as refused:
        await parse_short_id("0a1b", field="IMAGE").whole(IdKind.IMAGE, Known())
    assert str(refused.value) == (
        f"IMAGE: '0a1b' is the beginning of several: {IMAGES[0]}, {IMAGES[1]}"
    )


async def test_the_beginning_of_none_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="operation '0a1b' was not found"):
        await parse_short_id("0a1b", field="OPERATION").whole(IdKind.OPERATION, Known())


@pytest.mark.parametrize("text", ["", "0a1", "0a1g", "0a1c " * 2, "0" * 33])
def test_what_cannot_begin_an_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        parse_short_id(text, field="IMAGE")
    assert str(refused.value) == (
        f"IMAGE: '{text}' is not a UUID, nor the first 4 or more digits of one"
    )
