"""Patches and name-status against real `git`: what it applies, and what it says of the same trees.

Random trees are put into layers, compared by their indexes, and written to disk for `git`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from contree.adapters.layers.diff.comparer import StackComparer
from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.store import LayerDirectory
from contree.app.images.compare_images import CompareImages, DiffOptions, ImagePair
from contree.app.images.git_names import name_status, quoted
from contree.app.images.git_patch import TEXT_BYTES_MAX
from tests.fakes.event_log import FakeEventLog
from tests.fakes.reads import FakeAncestry, FakeImageReads
from tests.support import layer_tars as tars

RANDOM = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NAMES = st.sampled_from(["a", "b", "a b", "new\nline", "caf\udce9", 'q"\\', "t\tab", "a.b", "ü"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
LINES = st.lists(
    st.sampled_from([b"one\n", b"two\n", b"\n", b"\t x \r\n", b"--- a\n"]), max_size=20
)
TEXTS = st.builds(
    lambda lines, end: b"".join(lines) + end, LINES, st.sampled_from([b"", b"end", b"\xff"])
)
BINARY = st.binary(max_size=200).map(lambda data: b"\0" + data)


@dataclass(frozen=True)
class Leaf:
    """A regular file, or a symbolic link to `data`."""

    data: bytes
    executable: bool = False
    is_link: bool = False


Files = dict[str, Leaf]
TEXT_FILES = st.builds(Leaf, TEXTS, st.booleans())
LINKS = st.builds(
    lambda text: Leaf(b"to " + text, is_link=True), st.sampled_from([b"x", b"\xff y"])
)
ANY_FILES = st.one_of(TEXT_FILES, TEXT_FILES, LINKS, st.builds(Leaf, BINARY, st.booleans()))


@st.composite
def trees(draw: st.DrawFn, leaves: st.SearchStrategy[Leaf] = ANY_FILES) -> Files:
    """Files of which none is below another."""
    kept: Files = {}
    for path, leaf in draw(st.lists(st.tuples(PATHS, leaves), max_size=8)):
        if not any(
            other == path or other.startswith(path + "/") or path.startswith(other + "/")
            for other in kept
        ):
            kept[path] = leaf
    return kept


@st.composite
def edited(draw: st.DrawFn) -> tuple[Files, Files]:
    """Two trees that have most files in common."""
    before = draw(trees())
    after = {path: leaf for path, leaf in before.items() if draw(st.integers(0, 3))}
    for path, leaf in draw(trees()).items():
        if not any(o.startswith(path + "/") or path.startswith(o + "/") for o in after):
            after[path] = leaf
    return before, after


def member(path: str, leaf: Leaf) -> tars.Member:
    if leaf.is_link:
        return tars.symlink(path, os.fsdecode(leaf.data), mode=0o777)
    return tars.file(path, leaf.data, mode=0o755 if leaf.executable else 0o644)


def written(root: Path, files: Files) -> Path:
    for path, leaf in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if leaf.is_link:
            place.symlink_to(os.fsdecode(leaf.data))
        else:
            place.write_bytes(leaf.data)
            place.chmod(0o755 if leaf.executable else 0o644)
    return root


def read(root: Path) -> Files:
    found: Files = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            place = Path(directory) / name
            path = str(place.relative_to(root))
            if place.is_symlink():
                found[path] = Leaf(os.fsencode(place.readlink()), is_link=True)
            elif place.is_file():
                found[path] = Leaf(place.read_bytes(), bool(place.stat().st_mode & 0o100))
    return found


def git(*arguments: str, cwd: Path, stdin: bytes = b"", **more: str) -> bytes:
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": str(cwd),
        "GIT_CEILING_DIRECTORIES": str(cwd.parent),
        **more,
    }
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, env=environment, input=stdin, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stderr, stdin)
    return done.stdout


def git_tree(scratch: Path, files: Files) -> str:
    """Return the id of these files as a tree of a repository in `scratch`."""
    work = Path(tempfile.mkdtemp(dir=scratch))
    written(work, files)
    places = {"GIT_DIR": str(scratch / "repo"), "GIT_WORK_TREE": str(work)}
    if not (scratch / "repo").exists():
        git("init", "-q", cwd=work, **places)
    git("add", "-A", ".", cwd=work, **places)
    return git("write-tree", cwd=work, **places).decode().strip()


async def with_images(
    scratch: Path, before: Files, after: Files, options: DiffOptions, *, binary: bool = True
) -> tuple[bytes, bytes]:
    """Return patch and name-status (-z) of two images with these files."""
    store = LayerDirectory(scratch / "layers")
    comparer, files = StackComparer(store), LayerImageFiles(store)
    log = FakeEventLog()
    use_case = CompareImages(
        images=FakeImageReads(log), ancestry=FakeAncestry(log), comparer=comparer, files=files
    )
    try:
        ids = []
        for tree in (before, after):
            tar = tars.tar_bytes([member(path, leaf) for path, leaf in sorted(tree.items())])
            await store.add_imported(tars.blob(scratch, tar), diff_id=tars.diff_id(tar))
            ids.append(tars.diff_id(tar))
        nobody = UUID(int=0)
        pair = ImagePair(
            project_id=nobody,
            before_id=nobody,
            after_id=nobody,
            base=None,
            before=(ids[0],),
            after=(ids[1],),
        )
        patch = [piece async for piece in use_case.patch(pair, options, binary=binary)]
        status = [
            name_status(change, nul=True)
            async for some in use_case.changes(pair, options)
            for change in some
        ]
        return b"".join(patch), b"".join(status)
    finally:
        files.close()
        comparer.close()
        store.close()


def compared(
    before: Files, after: Files, *, renames: bool = True, binary: bool = True
) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        options = DiffOptions(renames=renames)
        return asyncio.run(with_images(Path(scratch), before, after, options, binary=binary))


def assert_applied(before: Files, after: Files, patch: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        work = written(Path(scratch) / "work", before)
        work.mkdir(exist_ok=True)
        if patch:
            git("apply", "--whitespace=nowarn", "-", cwd=work, stdin=patch)
        assert read(work) == after


@RANDOM
@given(pair=edited(), renames=st.booleans())
def test_git_applies_our_patch(pair: tuple[Files, Files], renames: bool) -> None:
    before, after = pair
    note(f"{before!a} {after!a}")
    patch, _ = compared(before, after, renames=renames)
    assert_applied(before, after, patch)


@RANDOM
@given(pair=edited())
def test_name_status_is_as_git_has_it(pair: tuple[Files, Files]) -> None:
    before, after = pair
    note(f"{before!a} {after!a}")
    _, status = compared(before, after, renames=False)
    with tempfile.TemporaryDirectory() as scratch:
        ids = [git_tree(Path(scratch), files) for files in (before, after)]
        wanted = git(
            *("diff", "--no-renames", "--name-status", "-z", *ids),
            cwd=Path(scratch),
            GIT_DIR=str(Path(scratch) / "repo"),
        )
    assert status == wanted


@RANDOM
@given(before=trees(TEXT_FILES), moved=st.dictionaries(PATHS, st.integers(0, 7), max_size=4))
def test_exact_renames_are_as_git_has_them(before: Files, moved: dict[str, int]) -> None:
    before = {
        path: Leaf(leaf.data + f"{n}".encode()) for n, (path, leaf) in enumerate(before.items())
    }
    after = dict(before)
    for path, number in moved.items():
        old = sorted(before)[number % len(before)] if before else None
        free = not any(
            o == path or o.startswith(path + "/") or path.startswith(o + "/") for o in before
        ) and not any(o.startswith(path + "/") or path.startswith(o + "/") for o in after)
        if old in after and free:
            after[path] = after.pop(old)
    assume(before != after)
    patch, status = compared(before, after)
    with tempfile.TemporaryDirectory() as scratch:
        ids = [git_tree(Path(scratch), files) for files in (before, after)]
        wanted = git(
            *("diff", "-M100%", "-l0", "--name-status", "-z", *ids),
            cwd=Path(scratch),
            GIT_DIR=str(Path(scratch) / "repo"),
        )
    assert status == wanted
    assert_applied(before, after, patch)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def test_a_binary_file_says_so_with_both_digests_and_git_refuses_it() -> None:
    before, after = {"b": Leaf(b"\0old")}, {"b": Leaf(b"\0new")}
    patch, _ = compared(before, after, binary=False)
    assert patch == (
        b"diff --git a/b b/b\n"
        b"index e7be1ea5722fddec13dbce5018dc1056c0dd3fdb..f9e371ff2657e5d2bd4389e3b323fe0550e3a860"
        b" 100644\nBinary files a/b and b/b differ\n"
        b"sha256 %s %s\n"
        % (
            hashlib.sha256(b"\0old").hexdigest().encode(),
            hashlib.sha256(b"\0new").hexdigest().encode(),
        )
    )


def test_an_over_large_text_says_so_too() -> None:
    text = b"line\n" * (TEXT_BYTES_MAX // 5 + 1)
    before, after = {"t": Leaf(text)}, {"t": Leaf(text + b"more\n")}
    patch, _ = compared(before, after, binary=False)
    assert patch.startswith(b"diff --git a/t b/t\nBinary files a/t and b/t differ\nsha256 ")
    whole, _ = compared(before, after, binary=True)
    assert_applied(before, after, whole)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain name", b"plain name"),
        (b'a"b\\c', b'"a\\"b\\\\c"'),
        (b"\x01\n\t\x7f\xc3\xa9", b'"\\001\\n\\t\\177\\303\\251"'),
    ],
)
def test_names_are_quoted_as_git_quotes_them(name: bytes, shown: bytes) -> None:
    assert quoted(name) == shown
