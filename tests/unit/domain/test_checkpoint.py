"""Checkpoints: written and read the same, and refused when they are not exactly that."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.domain.checkpoint import SIZE_MAX, Checkpoint
from contree.domain.errors import InvalidFieldError
from contree.domain.merkle import EMPTY_ROOT

ROOT = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@given(
    size=st.integers(0, SIZE_MAX),
    root=st.binary(min_size=32, max_size=32),
    at=st.none() | st.integers(0, 2**33).map(lambda s: datetime.fromtimestamp(s, UTC)),
)
def test_what_is_written_is_read(size: int, root: bytes, at: datetime | None) -> None:
    made = Checkpoint(origin="contree/x", size=size, root=root, at=at)
    assert Checkpoint.parse(made.text()) == made


def test_its_text_is_line_by_line() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    made = Checkpoint(origin="contree/x", size=7, root=EMPTY_ROOT, at=at)
    assert made.text() == f"contree/x\n7\n{ROOT}\ntime 2026-01-02T03:04:05Z\n"


def test_further_lines_of_others_are_allowed() -> None:
    found = Checkpoint.parse(f"o\n7\n{ROOT}\nanything\ntime 2026-01-02T03:04:05Z\nmore\n")
    assert (found.size, found.at) == (7, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert Checkpoint.parse(f"o\n7\n{ROOT}\ntime is money\n").at is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n7\n",
        f"\n7\n{ROOT}\n",
        f"o\n7\n{ROOT}\n\n",
        f"o\n\n7\n{ROOT}\n",
        f"o\n07\n{ROOT}\n",
        f"o\n-7\n{ROOT}\n",
        f"o\n+7\n{ROOT}\n",
        f"o\n7 \n{ROOT}\n",
        f"o\n\N{ARABIC-INDIC DIGIT SEVEN}\n{ROOT}\n",
        f"o\n{2**63}\n{ROOT}\n",
        f"o\n{'9' * 5000}\n{ROOT}\n",
        f"o\n7\n{ROOT[:-1]}\n",
        "o\n7\nAAAA\n",
        f"o\n7\n{ROOT[:-2]}V=\n",
        f"o\n7\n{ROOT}\ntime 2026-13-02T03:04:05Z\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(InvalidFieldError, match="checkpoint"):
        Checkpoint.parse(text)
