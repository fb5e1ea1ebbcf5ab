"""Built on the unit files as they are, judged by systemd's own checker and by contreed's parser."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[3] / "infra" / "systemd").glob("*.service"))
CONTREED = Path(sys.executable).parent / "contreed"
BAD_SETTING = {"CONTREED_LOG_LEVEL": "nonsense"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    # The checker wants the program to be there.
    copy.write_text(unit.read_text().replace("/opt/contree/.venv/bin/contreed", str(CONTREED)))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert str(copy) not in checked.stderr
    assert unit.name not in checked.stderr
    assert checked.returncode == 0


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_a_unit_makes_is_closed_to_others(unit: Path) -> None:
    assert {"StateDirectoryMode=0700", "UMask=0077"} <= set(unit.read_text().splitlines())


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_contreed_knows_the_command(unit: Path) -> None:
    line = next(x for x in unit.read_text().splitlines() if x.startswith("ExecStart="))
    program, *arguments = shlex.split(line.removeprefix("ExecStart="))
    assert program == "/opt/contree/.venv/bin/contreed"
    # Parsed whole, and then refused before anything starts: 2 would be wrong usage.
    asked = subprocess.run(
        [CONTREED, *arguments], capture_output=True, text=True, check=False, env=BAD_SETTING
    )
    assert (asked.returncode, "log_level" in asked.stderr) == (1, True), asked.stderr
