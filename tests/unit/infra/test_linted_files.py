"""What the linter reads in a source archive, where no .gitignore hides anything from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RUFF = Path(sys.executable).parent / "ruff"


def test_our_code_is_linted_and_what_setup_made_is_not(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("contree", "tests", ".venv/lib", ".venv-next/lib", "guest/build"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "module.py").touch()
    command = [RUFF, "check", "--no-cache", "--show-files", "."]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    found = {Path(line).relative_to(tmp_path) for line in done.stdout.splitlines()}
    assert {path for path in found if path.suffix == ".py"} == {
        Path("contree/module.py"),
        Path("tests/module.py"),
    }
