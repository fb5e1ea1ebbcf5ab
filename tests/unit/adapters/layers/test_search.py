"""The real search beside the real `rg` on the same tree unpacked, and against hostile content."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import tarfile
from array import array
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contree.adapters.layers.search import found as search_found
from contree.adapters.layers.search import process as search_process
from contree.adapters.layers.search import scope as search_scope
from contree.adapters.layers.search import tree as search_tree
from contree.adapters.layers.search.globs import Globs
from contree.adapters.layers.search.image_search import LayerSearch
from contree.adapters.layers.search.recent import Recent
from contree.adapters.layers.store import LayerDirectory
from contree.app.images.image_search import CaseMode, SearchQuery, SearchResult
from contree.domain.errors import InvalidFieldError, UnavailableError
from tests.support import layer_tars as tars
from tests.support.layer_tars import Member, file, sparse, symlink

RG = ("rg", "--no-config", "--no-ignore", "--hidden")
NAMES = ("a", "b.py", "ab.c", "a-b", ".h", "A", "x[1]", "{c}", "!n", "q\\z")
GLOBS = st.text(alphabet="ab.*?/![]{},-c\\A1", min_size=1, max_size=8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LayerDirectory]:
    opened = LayerDirectory(tmp_path / "layers")
    yield opened
    opened.close()


@pytest.fixture
def search(store: LayerDirectory, tmp_path: Path) -> Iterator[LayerSearch]:
    opened = LayerSearch(store, tmp_path / "search")
    yield opened
    opened.close()


async def kept(store: LayerDirectory, tmp_path: Path, members: Sequence[Member]) -> str:
    tar = tars.tar_bytes(members)
    diff_id = tars.diff_id(tar)
    await store.add_imported(tars.blob(tmp_path, tar), diff_id=diff_id)
    return diff_id


def unpacked(tmp_path: Path, members: Sequence[Member]) -> Path:
    place = tmp_path / "unpacked"
    for member in members:
        path = place / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(member.data)
    return place


def told_by_rg(place: Path, *arguments: str) -> list[tuple[Any, ...]]:
    """What `rg` itself finds: path, kind, line, offset, text, matches."""
    command = [*RG, "--json", "--sort=path", *arguments]
    run = subprocess.run(command, cwd=place, capture_output=True, check=False)
    assert run.returncode in (0, 1), run.stderr
    found = []
    for text in run.stdout.splitlines():
        message = json.loads(text)
        data = message["data"]
        if message["type"] in ("match", "context"):
            line = data["lines"]
            raw = b64decode(line["bytes"]) if "bytes" in line else line["text"].encode()
            found.append(
                (
                    "/" + data["path"]["text"].removeprefix("./"),
                    message["type"] == "match",
                    data["line_number"],
                    data["absolute_offset"],
                    raw.decode("utf-8", "replace"),
                    [(one["start"], one["end"]) for one in data["submatches"]],
                )
            )
    return found


def told(result: SearchResult) -> list[tuple[Any, ...]]:
    return [
        (
            line.path,
            line.is_match,
            line.line_number,
            line.absolute_offset,
            line.line_text,
            [(one.start, one.end) for one in line.submatches],
        )
        for line in result.lines
    ]


@pytest.fixture(scope="module")
def names_on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A tree of empty files under every pair and some triples of NAMES."""
    place = tmp_path_factory.mktemp("names")
    paths = [*(f"f{name}" for name in NAMES)]
    paths += [f"{one}/{two}" for one in NAMES[:6] for two in NAMES if one != two]
    paths += [f"{one}/d/{two}" for one in NAMES[:4] for two in NAMES[:4]]
    for path in paths:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).touch()
    return place, paths


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(globs=st.lists(GLOBS, min_size=1, max_size=3))
def test_globs_take_what_ripgrep_takes(
    names_on_disk: tuple[Path, list[str]], globs: list[str]
) -> None:
    place, paths = names_on_disk
    arguments = [f"--glob={glob}" for glob in globs]
    run = subprocess.run([*RG, "--files", *arguments], cwd=place, capture_output=True, check=False)
    if run.returncode == 2:
        return  # malformed: ripgrep is asked first
    ours = search_scope._Filter(Globs(globs), b"")
    assert {path for path in paths if ours.takes(path.encode())} == set(
        run.stdout.decode().splitlines()
    )


@pytest.mark.parametrize(
    "glob",
    [
        *("*.py", "*.{py,c}", "a/**", "**/a", "/a/*", "a/", "!a", "!a/**", "**", "a/**/b.py"),
        *("[!a]*", "[a-c]*", "x[[]1]", "\\{c}", "{a,**/d}/*", "#a", "a ", "**/d/**", "d/*", "?"),
        *("q\\\\z", "a\\\\/", "!a\\\\/", "a\\/", "}a", "{}**", "[]a]", "[a-]*", "**/}A"),
    ],
)
def test_common_globs_take_what_ripgrep_takes(
    names_on_disk: tuple[Path, list[str]], glob: str
) -> None:
    test_globs_take_what_ripgrep_takes.hypothesis.inner_test(names_on_disk, [glob])


TEXTS = [
    file("a/one.py", b"import os\n\nclass Foo:\n    pass\n# import os again\nimport osx"),
    file("a/two.txt", b"\n".join(b"line %d import" % n for n in range(300))),
    file("a-b", b"import \xff\xfe os\r\nnext\r\nIMPORT\r\n"),
    file("b/.hidden", "caf\u00e9 import\n".encode()),
    file("b/bom", b"\xef\xbb\xbfimport os\nmore\n"),
    file("b/binary", b"import\0\n"),
    file("b/wide", "import wide\nsecond\n".encode("utf-16")),
    file("b/wide-be", b"\xfe\xff" + "import wide\n".encode("utf-16-be")),
]


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        (SearchQuery(patterns=["import"]), ["import"]),
        (SearchQuery(patterns=["^import os$", "pass"]), ["-e^import os$", "-epass"]),
        (SearchQuery(patterns=["import"], before=2, after=1), ["-B2", "-A1", "import"]),
        (SearchQuery(patterns=["import"], max_count=1), ["-m1", "import"]),
        (SearchQuery(patterns=["IMPORT"], case=CaseMode.INSENSITIVE), ["-i", "IMPORT"]),
        (SearchQuery(patterns=["Import"], case=CaseMode.SMART), ["-S", "Import"]),
        (SearchQuery(patterns=[r"\bo\w+", r"\d{2}$"]), ["-e", r"\bo\w+", "-e", r"\d{2}$"]),
        (SearchQuery(patterns=[""], paths=["/b"]), ["", "b"]),
        (SearchQuery(patterns=["import"], globs=["a/*", "!*.py"]), ["-ga/*", "-g!*.py", "import"]),
        (SearchQuery(patterns=["caf."]), ["caf."]),
    ],
)
async def test_an_image_gives_what_ripgrep_gives_on_its_files(
    store: LayerDirectory,
    search: LayerSearch,
    tmp_path: Path,
    query: SearchQuery,
    arguments: list[str],
) -> None:
    diff_id = await kept(store, tmp_path, TEXTS)
    expected = told_by_rg(unpacked(tmp_path, TEXTS), *arguments)
    result = await search.search([diff_id], query)
    assert told(result) == expected
    assert expected or query.case is CaseMode.SMART
    assert not result.truncated


async def test_chunks_make_no_difference(
    store: LayerDirectory, search: LayerSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [file(f"d{n % 7}/f{n}", b"x\nhit %d\ny\n" % n * (n % 3)) for n in range(200)]
    diff_id = await kept(store, tmp_path, members)
    everything = SearchQuery(patterns=["hit"])
    await search.search([diff_id], everything)  # chosen once, by each of the two
    monkeypatch.setattr(search_scope, "CHUNK_FILES_MAX", 7)
    with closing(LayerSearch(store, tmp_path / "chunked")) as chunked:
        await chunked.search([diff_id], everything)
        for total in (1, 7, 132, 10_000):
            query = replace(everything, max_total=total, before=1, after=1)
            whole = await search.search([diff_id], query)
            assert await chunked.search([diff_id], query) == whole
            assert sum(line.is_match for line in whole.lines) == min(total, 199)
            assert whole.truncated == (total < 199)


def test_many_files_are_shared_out_evenly() -> None:
    count = search_scope.CHUNK_FILES_MAX + 3000
    view = search_scope.View(
        paths=[b"%06d" % n for n in range(count)],
        texts=[b"layer/%d" % n for n in range(count)],
        sizes=array("q", [1] * count),
    )
    root = search_scope.Root(asked=b"", real=b"", is_directory=True)
    scope = search_scope.scope_of(view, [root], Globs([]), processors=2)
    assert [len(chunk.texts) for chunk in scope.chunks] == [count // 2, count // 2]
    assert [text for chunk in scope.chunks for text in chunk.texts] == view.texts


async def test_what_one_question_chose_is_not_taken_for_another(
    store: LayerDirectory, search: LayerSearch, tmp_path: Path
) -> None:
    names = {"a/x.py": b"needle\n", "a/y.c": b"needle\n", "b/x.py": b"needle\n"}
    diff_id = await kept(store, tmp_path, [file(name, data) for name, data in names.items()])
    other_id = await kept(store, tmp_path, [file("a/other.py", b"needle\n")])
    asked: list[tuple[str, list[str], list[str], list[str]]] = [
        (diff_id, ["/"], [], ["/a/x.py", "/a/y.c", "/b/x.py"]),
        (diff_id, ["/"], ["*.py"], ["/a/x.py", "/b/x.py"]),
        (diff_id, ["/a"], ["*.py"], ["/a/x.py"]),
        (diff_id, ["/a"], [], ["/a/x.py", "/a/y.c"]),
        (other_id, ["/a"], [], ["/a/other.py"]),
    ]
    for _ in range(2):
        for layer, paths, globs, expected in asked:
            query = SearchQuery(patterns=["needle"], paths=paths, globs=globs)
            assert [line.path for line in (await search.search([layer], query)).lines] == expected


def test_what_was_not_asked_for_longest_is_forgotten_first() -> None:
    recent = Recent[str, int](10)
    recent.put("a", 1, cost=4)
    recent.put("b", 2, cost=4)
    recent.put("a", 3, cost=5)
    assert (recent.get("b"), recent.get("a")) == (2, 3)
    recent.get("b")
    recent.put("c", 4, cost=6)
    assert [recent.get(key) for key in "abc"] == [None, 2, 4]
    recent.put("huge", 5, cost=11)
    assert [recent.get(key) for key in ("b", "c", "huge")] == [None, None, 5]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (SearchQuery(patterns=["a", "("]), "pattern"),
        (SearchQuery(patterns=["a\nb"]), "pattern"),
        (SearchQuery(patterns=[r"(\w{500}){500}"]), "pattern"),
        (SearchQuery(patterns=["a"], globs=["{a"]), "glob"),
        (SearchQuery(patterns=["a"], globs=["a", "[z-a]"]), "glob"),
    ],
)
async def test_what_ripgrep_refuses_is_refused_by_field_without_our_names(
    search: LayerSearch, query: SearchQuery, field: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        await search.search([], query)
    assert caught.value.field == field
    assert "/" not in caught.value.problem


async def test_nothing_of_a_layer_but_its_text_comes_onto_the_disk(
    store: LayerDirectory, search: LayerSearch, tmp_path: Path
) -> None:
    members = [
        file("text", b"needle\n", mode=0o4777, uid=1000, xattrs={"user.x": "y"}),
        file("dir/-e", b"needle\n"),
        file("binary", b"needle\0"),
        sparse("holes", [(0, b"needle\n"), (1 << 37, b"needle\n")], (1 << 37) + 7),
        symlink("outside", "/etc/passwd"),
        Member(name="device", type=tarfile.BLKTYPE, device=(8, 0)),
    ]
    diff_id = await kept(store, tmp_path, members)
    result = await search.search([diff_id], SearchQuery(patterns=["needle|root"]))
    assert [line.path for line in result.lines] == ["/dir/-e", "/text"]
    files = [path for path in (tmp_path / "search").rglob("*") if not path.is_dir()]
    assert len(files) == 2
    for path in files:
        status = path.lstat()
        assert path.name.isdigit()
        assert (stat.S_IFMT(status.st_mode), status.st_mode & 0o7777) == (stat.S_IFREG, 0o400)
        assert (status.st_uid, os.listxattr(path)) == (os.getuid(), [])


async def test_what_is_over_a_bound_is_left_out_and_told(
    store: LayerDirectory, search: LayerSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_tree, "FILE_BYTES_MAX", 3_000_000)
    monkeypatch.setattr(search_tree, "LINE_BYTES_MAX", 1_000_000)
    members = [
        file("large", b"needle\n" * 500_000),
        file("long", b"x" * 600_000 + b"\n" + b"x" * 1_000_001 + b"\nneedle\n"),
        file("small/good", b"needle" + b"y" * 900_000 + b"\nneedle"),
    ]
    diff_id = await kept(store, tmp_path, members)
    result = await search.search([diff_id], SearchQuery(patterns=["needle"]))
    assert [line.path for line in result.lines] == ["/small/good"] * 2
    assert result.truncated
    small = await search.search([diff_id], SearchQuery(patterns=["needle"], paths=["/small"]))
    assert not small.truncated


async def test_messages_and_answers_are_bounded(
    store: LayerDirectory, search: LayerSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_process, "MESSAGE_BYTES_MAX", 300_000)
    members = [file("a-many", b"x" * 50_000), file("b-few", b"x\n" * 5000)]
    diff_id = await kept(store, tmp_path, members)
    result = await search.search([diff_id], SearchQuery(patterns=["x"], max_total=10_000))
    assert {line.path for line in result.lines} == {"/b-few"}
    assert (len(result.lines), result.truncated) == (5000, True)
    monkeypatch.setattr(search_found, "FOUND_BYTES_MAX", 100_000)
    monkeypatch.setattr("contree.adapters.layers.search.image_search.FOUND_BYTES_MAX", 100_000)
    fewer = await search.search([diff_id], SearchQuery(patterns=["x"], max_total=10_000))
    assert 100 < len(fewer.lines) < 1000
    assert fewer.truncated


async def test_a_search_that_takes_too_long_gives_what_it_has_and_is_quicker_the_next_time(
    store: LayerDirectory, tmp_path: Path
) -> None:
    diff_id = await kept(store, tmp_path, [file("f", b"needle\n")])
    hurried = LayerSearch(store, tmp_path / "search", search_s_max=0.0)
    query = SearchQuery(patterns=["needle"])
    assert await hurried.search([diff_id], query) == SearchResult(lines=[], truncated=True)
    hurried.close()


async def test_a_cancelled_search_leaves_no_process_behind(
    store: LayerDirectory, search: LayerSearch, tmp_path: Path
) -> None:
    members = [file(f"f{n}", b"a" * 2_000_000) for n in range(8)]
    diff_id = await kept(store, tmp_path, members)
    query = SearchQuery(patterns=["(a.*b|a.*c|a.*d)$"])
    await search.search([diff_id], SearchQuery(patterns=["nothing"]))
    running = asyncio.create_task(search.search([diff_id], query))
    while not (children() or running.done()):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert children() == []


def children() -> list[str]:
    me = os.getpid()
    found = []
    for task in Path(f"/proc/{me}/task").iterdir():
        # A thread or a process may end while it is looked at.
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in (task / "children").read_text().split():
                with suppress(FileNotFoundError, ProcessLookupError):
                    if Path(f"/proc/{child}/comm").read_text().strip() == "rg":
                        found.append(child)
    return found


async def test_trees_of_an_earlier_boot_are_not_used_and_go(
    store: LayerDirectory, search: LayerSearch, tmp_path: Path
) -> None:
    diff_id = await kept(store, tmp_path, [file("f", b"needle\n")])
    old = tmp_path / "search" / "0-0" / diff_id.removeprefix("sha256:")
    old.mkdir(parents=True)
    (old / "2").write_bytes(b"needle of another boot\n")
    result = await search.search([diff_id], SearchQuery(patterns=["needle"]))
    assert [line.line_text for line in result.lines] == ["needle\n"]
    assert not old.parent.exists()


async def test_without_ripgrep_it_says_what_to_install(
    store: LayerDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lacking = LayerSearch(store, tmp_path / "search")
    with pytest.raises(UnavailableError, match="install ripgrep"):
        await lacking.search([], SearchQuery(patterns=["a"]))
    lacking.close()


async def test_searches_beside_each_other_give_the_same(
    store: LayerDirectory, search: LayerSearch, tmp_path: Path
) -> None:
    members = [file(f"f{n}", b"needle %d\n" % n) for n in range(50)]
    diff_id = await kept(store, tmp_path, members)
    query = SearchQuery(patterns=["needle"])
    results = await asyncio.gather(*(search.search([diff_id], query) for _ in range(12)))
    assert all(result == results[0] for result in results)
    assert len(results[0].lines) == 50
