"""The machine's own: the real clock, random ids and the key file, in temporary directories."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contree.adapters.system.clock import SystemClock, SystemIds
from contree.adapters.system.sealer import FileSealer, SealingKeyError


def test_the_clock_is_aware_and_never_goes_backwards_over_threads() -> None:
    clock = SystemClock()
    readings: list[datetime] = []

    def read() -> None:
        mine = [clock.now() for _ in range(2000)]
        assert mine == sorted(mine)
        readings.append(mine[-1])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(readings) == 4
    assert all(reading.tzinfo is UTC for reading in readings)


def test_ids_and_secrets_are_fresh_and_recognisable() -> None:
    ids = SystemIds()
    assert len({ids.new_id() for _ in range(100)}) == 100
    assert ids.new_id().version == 4
    secrets = {ids.new_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert secret.startswith("contree_")
        assert len(secret) >= len("contree_") + 43  # 256 bits in base64


def test_the_key_is_made_once_private_and_used_again(tmp_path: Path) -> None:
    maker = FileSealer(tmp_path / "keys")
    maker.prepare(make=True)
    sealed = maker.seal(b"secret")
    assert FileSealer(tmp_path / "keys").open(sealed) == b"secret"
    key = tmp_path / "keys" / "sealing.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in key.parent.iterdir()] == ["sealing.key"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    FileSealer(tmp_path).prepare(make=True)
    (tmp_path / "sealing.key").chmod(0o644)
    with pytest.raises(SealingKeyError, match="chmod 600"):
        FileSealer(tmp_path).prepare(make=False)


def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    FileSealer(tmp_path).prepare(make=True)
    (tmp_path / "sealing.key").write_bytes(b"short")
    with pytest.raises(SealingKeyError, match="5 bytes"):
        FileSealer(tmp_path).prepare(make=True)
    assert (tmp_path / "sealing.key").read_bytes() == b"short"


def test_a_key_that_is_missing_is_not_made_because_it_is_needed(tmp_path: Path) -> None:
    sealer = FileSealer(tmp_path / "keys")
    for use in (lambda: sealer.prepare(make=False), lambda: sealer.seal(b"secret")):
        with pytest.raises(SealingKeyError, match="restore it from the backup"):
            use()
    assert not (tmp_path / "keys").exists()


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    sealers = [FileSealer(tmp_path) for _ in range(8)]
    threads = [threading.Thread(target=sealer.prepare, kwargs={"make": True}) for sealer in sealers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({sealer.digest(b"x") for sealer in sealers}) == 1
