"""All benches one after the other, each a few lines here that measure nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import bench.__main__ as suite
from tests.unit.bench.test_measure import a_document, a_row

SAY = "import pathlib; pathlib.Path({path!r}).write_text({text!r})"


@pytest.fixture
def out_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where answers go; table and plots are left out."""
    answer = json.dumps(a_document(a_row([1], None)))
    programs = {
        "bad": "raise SystemExit(3)",
        "good": SAY.format(path=str(tmp_path / "good.json"), text=answer),
        "slow": "import time; time.sleep(600)",
    }
    monkeypatch.setattr(suite, "names", lambda: ["bad", "good"])
    monkeypatch.setattr(suite, "command_of", lambda name: [sys.executable, "-c", programs[name]])
    monkeypatch.setattr(suite, "OUT_DIR", tmp_path)
    monkeypatch.setattr(suite.report, "main", lambda: None)
    monkeypatch.setattr(suite.plots, "main", lambda: None)
    return tmp_path


def test_one_that_fails_is_said_and_the_rest_goes_on(
    out_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (out_dir / "bad.json").write_text("of an earlier time")
    assert suite.main([]) == 1
    assert (out_dir / "good.json").exists()
    assert not (out_dir / "bad.json").exists()
    said = capfd.readouterr().out
    assert "bad FAILED: exit status 3" in said
    assert said.rstrip().endswith("FAILED: bad")


def test_one_that_hangs_is_ended(
    out_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "names", lambda: ["slow"])
    monkeypatch.setattr(suite, "LONGEST_S", 0.5)
    assert suite.main([]) == 1
    assert "took more than" in capfd.readouterr().out


def test_all_well_is_status_0(out_dir: Path) -> None:
    assert suite.main(["good"]) == 0


def test_a_name_that_is_none_is_refused(out_dir: Path) -> None:
    with pytest.raises(SystemExit, match="no such bench: godo; there are: bad, good"):
        suite.main(["godo"])
