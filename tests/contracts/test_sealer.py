"""The Sealer contract, on the fake and on the key file."""

from __future__ import annotations

from pathlib import Path

import pytest

from contree.adapters.system.sealer import FileSealer
from contree.app.sealing import Sealer
from contree.domain.errors import OperationFailure
from tests.fakes.sealer import FakeSealer


@pytest.fixture(params=["fake", "file"])
def sealers(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Sealer, Sealer]:
    """Two sealers under different keys."""
    if request.param == "fake":
        return FakeSealer(b"one"), FakeSealer(b"two")
    made = FileSealer(tmp_path / "one"), FileSealer(tmp_path / "two")
    for sealer in made:
        sealer.prepare(make=True)
    return made


@pytest.mark.parametrize("plain", [b"", b"secret", bytes(range(256)) * 100])
def test_what_was_sealed_is_opened_and_does_not_show(
    sealers: tuple[Sealer, Sealer], plain: bytes
) -> None:
    sealed = sealers[0].seal(plain)
    assert sealers[0].open(sealed) == plain
    assert not plain or plain not in sealed


def test_another_key_does_not_open_it(sealers: tuple[Sealer, Sealer]) -> None:
    with pytest.raises(OperationFailure):
        sealers[1].open(sealers[0].seal(b"secret"))


@pytest.mark.parametrize("length", [0, 1, 3, 20, -1])
def test_a_secret_cut_short_is_refused(sealers: tuple[Sealer, Sealer], length: int) -> None:
    with pytest.raises(OperationFailure):
        sealers[0].open(sealers[0].seal(b"secret")[:length])


def test_a_secret_with_any_byte_changed_is_refused(sealers: tuple[Sealer, Sealer]) -> None:
    sealed = sealers[0].seal(b"secret")
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        with pytest.raises(OperationFailure):
            sealers[0].open(bytes(damaged))


def test_equal_secrets_have_equal_digests_under_one_key_only(
    sealers: tuple[Sealer, Sealer],
) -> None:
    one, two = sealers
    assert one.digest(b"secret") == one.digest(b"secret")
    assert one.digest(b"secret") != one.digest(b"other")
    assert one.digest(b"secret") != two.digest(b"secret")
    assert len(bytes.fromhex(one.digest(b""))) == 32
