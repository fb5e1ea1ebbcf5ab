"""What `serve` prints at its first start, and README says, typed into a shell as it stands there.

Only the registry is another, since docker.io is not asked by tests.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.terminal import CONTREE
from tests.support.server import CONTREED, RunningServer, running_server

README = Path(__file__).resolve().parents[2] / "README.md"
IMAGE = "docker://docker.io/library/busybox:latest"
WAIT_S = 300


@pytest.fixture(scope="module")
def first(server: RunningServer) -> Iterator[RunningServer]:
    """A server on a data directory that was not there before."""
    with running_server(after=server) as started:
        yield started


def block(said: str, beginning: str) -> list[str]:
    """The indented lines below the line that begins so."""
    found = re.search(rf"^{re.escape(beginning)}.*:\n((?:  .*\n)+)", said, re.MULTILINE)
    assert found is not None, said
    return [line.removeprefix("  ") for line in found[1].splitlines()]


def typed(first: RunningServer, home: Path, *command: str) -> str:
    """What a program says in a home directory, with the published clients on the PATH."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        cwd=home,
        env={
            "PATH": f"{CONTREE.parent}:{os.defpath}",
            "HOME": str(home),
            "TERM": "xterm",
            "CONTREE_NO_UPDATE_CHECK": "1",
        },
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{first.log_text}"
    return done.stdout


def test_the_printed_steps_work_as_they_are(
    first: RunningServer, busybox_url: str, tmp_path: Path
) -> None:
    said = first.log_text
    steps = block(said, "First steps")
    program, data_dir = shlex.quote(str(CONTREED)), shlex.quote(str(first.data_dir))
    assert steps[:2] == [
        f"TOKEN=$({program} token create --data-dir {data_dir} --project demo)",
        f'contree auth --type jwt --url {first.url} --token "$TOKEN"',
    ]
    assert sum(IMAGE in step for step in steps) == 1
    shell = "\n".join(steps).replace(IMAGE, busybox_url)
    output = typed(first, tmp_path, "bash", "-ec", shell).splitlines()  # each line must end well
    assert output[-1] == "hello"
    assert re.fullmatch(r"Linux \d\S+", output[-2])

    python = "\n".join(block(said, "From Python"))
    assert typed(first, tmp_path, sys.executable, "-c", python) == "hello\n\n"


def test_the_steps_are_printed_until_there_is_a_token(first: RunningServer) -> None:
    first.interrupt()
    seen = first.log_text
    first.start()
    assert "First steps" in seen
    assert "First steps" not in first.log_text.removeprefix(seen)


def fenced(language: str, containing: str) -> str:
    """The one block of README in a language that contains a text."""
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL
    )
    [found] = [block for block in blocks if containing in block]
    return str(found)


def test_what_readme_shows_from_python_and_with_curl_works(
    first: RunningServer, busybox_url: str, tmp_path: Path
) -> None:
    token = first.token("demo")
    typed(
        first, tmp_path, "contree", "auth", "--type=jwt", f"--url={first.url}", f"--token={token}"
    )
    typed(first, tmp_path, "contree", "images", "import", busybox_url)

    python = fenced("python", "import ContreeSync")
    assert typed(first, tmp_path, sys.executable, "-c", python) == "left\nright\n"

    lines = fenced("sh", "api=").replace("http://127.0.0.1:8080", first.url)
    assert first.url in lines
    output = typed(first, tmp_path, "bash", "-ec", f"TOKEN={token}\n{lines}").splitlines()
    assert output[-1] == "hello"


def test_readme_says_the_same(first: RunningServer) -> None:
    readme = README.read_text()
    _, _, *steps = block(first.log_text, "First steps")
    for line in steps:
        assert f"\n{line}\n" in readme
    assert "\nTOKEN=$(.venv/bin/contreed token create --project demo)" in readme
    assert '\ncontree auth --type jwt --url http://127.0.0.1:8080 --token "$TOKEN"\n' in readme
