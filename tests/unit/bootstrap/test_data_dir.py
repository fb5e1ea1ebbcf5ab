"""On a real file system: who may look into a data directory."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from contree.bootstrap import private_data_dir
from contree.config import Settings
from contree.domain.errors import UnavailableError


def test_it_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    before = os.umask(0)
    try:
        private_data_dir(settings)
        private_data_dir(settings)
    finally:
        os.umask(before)
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o720])
def test_one_that_others_may_use_is_refused_with_what_mends_it(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "it's data"
    (place / "layers").mkdir(parents=True)
    (place / "layers" / "layer.tar").write_bytes(b"secret")
    for path in (place / "layers", place / "layers" / "layer.tar"):
        path.chmod(0o755)
    place.chmod(mode)
    settings = Settings(data_dir=place)
    with pytest.raises(UnavailableError) as refused:
        private_data_dir(settings)
    text, command = str(refused.value).rsplit(": ", 1)
    assert text == (
        f"'{place}' is open to other users of this machine, who could read what projects keep in it"
    )
    subprocess.run(["sh", "-c", command], check=True)
    private_data_dir(settings)
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in place.rglob("*")} == {0}
