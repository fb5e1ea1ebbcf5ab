"""On a real file system, with several users of one directory as several processes are."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from contree.bootstrap import runtime_dir
from contree.config import Settings
from contree.domain.errors import UnavailableError


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Its runtime directory lies below the test's own, whoever runs it."""
    monkeypatch.setattr(Settings, "runtime_dir", tmp_path / "runtime")
    return Settings(data_dir=tmp_path / "data")


def test_the_last_user_removes_it(settings: Settings) -> None:
    with runtime_dir(settings) as path:
        with runtime_dir(settings) as same:
            assert same == path
        assert path.is_dir()
    assert not path.exists()


def test_it_is_private_even_if_it_was_not(settings: Settings) -> None:
    settings.runtime_dir.mkdir(mode=0o777)
    with runtime_dir(settings) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_what_is_left_in_it_keeps_it(settings: Settings) -> None:
    with runtime_dir(settings) as path:
        (path / "left").touch()
    assert (path / "left").exists()


def test_a_link_put_in_its_place_is_refused(settings: Settings, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings.runtime_dir.symlink_to(elsewhere)
    with pytest.raises(UnavailableError, match="remove it"), runtime_dir(settings):
        pass
    assert elsewhere.is_dir()
