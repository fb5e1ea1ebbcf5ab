"""How fast is a search of an image's text over HTTP, beside `rg` on the same tree unpacked?

20,000 files of words in three layers, each layer with files in every directory. The first search of
an image makes its text readable and is told apart; the row is every later one. Both sides start
processes: we those that search, the reference its one `rg` with all its threads.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from bench._http_client import Connection, request_bytes
from bench._measure import Report, Target, alternate, progress
from bench._service import Service, service
from contree.bootstrap import Core

LAYERS = 3
DIRECTORIES = 200
FILES_A_LAYER = 6_667
LINES_A_FILE = 150
WORDS_A_LINE = 9
VOCABULARY = 20_000
BINARY_SHARE = 0.05
SEED = 3
RUNS = 41
WARM_UP_RUNS = 2
RG = "rg --json on the unpacked tree"
TAR_TYPE = "application/vnd.oci.image.layer.v1.tar"
NEEDLE = "needle"
NEEDLES = 40

QUESTIONS: dict[str, tuple[list[str], dict[str, str]]] = {
    "a rare word": (["--regexp", NEEDLE], {"pattern": NEEDLE}),
    "- a regular expression, in any case": (
        ["--ignore-case", "--regexp", r"\bNEED[a-z]e\b.*[0-9]+$"],
        {"pattern": r"\bNEED[a-z]e\b.*[0-9]+$", "case": "insensitive"},
    ),
    "- in the files of one glob": (
        ["--regexp", NEEDLE, "--glob", "*7.txt"],
        {"pattern": NEEDLE, "glob": "*7.txt"},
    ),
}


def main() -> None:
    report = Report("grep", __doc__.splitlines()[0])
    with (
        report.running(),
        service() as running,
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
    ):
        tree = Path(directory) / "tree"
        tree.mkdir()
        image_id = running.with_core(lambda core: _store(running, core, Path(directory), tree))
        port = urlsplit(running.url).port
        assert port is not None
        with Connection(port) as end:
            first_s = _seconds(partial(end.get, _request(running, image_id, {"pattern": NEEDLE})))
            for what, (arguments, query) in QUESTIONS.items():
                _want_equal(running, image_id, query, arguments, tree)
                search = partial(end.get, _request(running, image_id, query))
                samples = alternate(
                    RUNS + WARM_UP_RUNS,
                    ours=partial(_seconds, search),
                    rg=partial(_seconds, partial(_rg, arguments, tree)),
                )
                report.add(
                    what,
                    "ms",
                    [sample * 1000 for sample in samples["ours"][WARM_UP_RUNS:]],
                    [sample * 1000 for sample in samples["rg"][WARM_UP_RUNS:]],
                    reference_name=RG,
                    targets=(Target(of="ratio", at_most=1.5),),
                )
        size_bytes = sum(file.stat().st_size for file in tree.rglob("*") if file.is_file())
        report.note(f"{LAYERS * FILES_A_LAYER:,} files, {size_bytes / 1e6:.0f} MB")
        report.note(f"the first search of the image took {first_s:.2f} s")


def _request(running: Service, image_id: UUID, query: dict[str, str]) -> bytes:
    return request_bytes(f"/v1/inspect/{image_id}/grep?{urlencode(query)}", running.authorization)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _rg(arguments: list[str], tree: Path) -> bytes:
    program = shutil.which("rg")
    assert program is not None, "apt-get install ripgrep"
    flags = ["--no-config", "--no-ignore", "--hidden", "--json"]
    done = subprocess.run(
        [program, *flags, *arguments, "."],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=tree,
    )
    assert done.returncode == 0, done.returncode
    return done.stdout


def _want_equal(
    running: Service, image_id: UUID, query: dict[str, str], arguments: list[str], tree: Path
) -> None:
    """Both sides find the same lines, and more than none."""
    answer = running.api.get(f"/inspect/{image_id}/grep", **query)
    assert not answer["truncated"]
    ours = {(m["path"], m["line_number"], m["line_text"]) for m in answer["matches"]}
    theirs = set()
    for line in _rg(arguments, tree).splitlines():
        message = json.loads(line)
        if message["type"] == "match":
            data = message["data"]
            path = data["path"]["text"].removeprefix(".")
            theirs.add((path, data["line_number"], data["lines"]["text"]))
    assert ours == theirs
    assert ours


async def _store(running: Service, core: Core, directory: Path, tree: Path) -> UUID:
    """Store the layers as an import does, unpack them, record the image; return its id."""
    rng = random.Random(SEED)
    words = ["".join(rng.choices("abcdefghijklmnopqrst", k=7)) for _ in range(VOCABULARY)]
    layers = []
    for number in range(LAYERS):
        progress(f"layer {number + 1}/{LAYERS}")
        tar = directory / f"{number}.tar"
        with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as opened:
            _fill(opened, number, rng, words)
        with tarfile.open(tar) as opened:
            opened.extractall(tree, filter="data")
        with tar.open("rb") as file:
            diff_id = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        layers.append(await core.layers.add_imported(tar, diff_id=diff_id))
        tar.unlink()
    return await running.record_image(core, layers)


def _fill(tar: tarfile.TarFile, layer: int, rng: random.Random, words: list[str]) -> None:
    for directory in range(DIRECTORIES):
        entry = tarfile.TarInfo(f"d{directory}")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    with_needle = set(rng.sample(range(FILES_A_LAYER), NEEDLES))
    for number in range(FILES_A_LAYER):
        if rng.random() < BINARY_SHARE:
            content = rng.randbytes(LINES_A_FILE * WORDS_A_LINE * 8)
        else:
            content = _text(rng, words, has_needle=number in with_needle)
        entry = tarfile.TarInfo(f"d{number % DIRECTORIES}/l{layer}-{number}.txt")
        entry.size, entry.mode = len(content), 0o644
        tar.addfile(entry, io.BytesIO(content))


def _text(rng: random.Random, words: list[str], *, has_needle: bool) -> bytes:
    lines = [" ".join(rng.choices(words, k=WORDS_A_LINE)) for _ in range(LINES_A_FILE)]
    if has_needle:
        lines[rng.randrange(LINES_A_FILE)] += f" {NEEDLE} {rng.randrange(100)}"
    return ("\n".join(lines) + "\n").encode()


if __name__ == "__main__":
    main()
