"""Built as one suite over the fake and the real one: an image of three layers, searched."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contree.adapters.layers.search.image_search import LayerSearch
from contree.adapters.layers.store import LayerDirectory
from contree.app.images.image_search import CaseMode, FoundLine, ImageSearch, SearchQuery
from contree.app.images.layer_store import LayerStore
from contree.domain.errors import InvalidFieldError, NotFoundError
from tests.fakes.image_search import FakeImageSearch
from tests.fakes.layers import FakeLayers
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, hard_link, symlink

LOWER = [
    directory("etc"),
    file("etc/.hidden", b"needle hidden\n"),
    file("etc/.gitignore", b"*\n"),
    file("etc/conf", b"one\ntwo needle\nthree\nfour needle needle\nfive\nsix\n"),
    file("etc/gone", b"needle that is removed\n"),
    file("etc/replaced", b"needle of old\n"),
    directory("etc/sub"),
    file("etc/sub/deep", b"Needle deep\n"),
    file("etc-after", b"needle after\n"),
    file("secret", b"needle of nobody\n", mode=0, uid=4_000_000_000),
    file("binary", b"needle\n\0needle\n"),
    file("late-binary", b"needle\n" * 100_000 + b"\0"),
    file("empty"),
    symlink("link", "etc"),
    symlink("file-link", "/etc/conf"),
    hard_link("twin", "etc/conf"),
    tars.Member(name="pipe", type=tarfile.FIFOTYPE),
]
MIDDLE = [tars.file("etc/.wh.gone"), file("etc/replaced", b"a needle of new\n")]
UPPER = [
    file("no-newline", b"needle"),
    file("latin", b"caf\xe9 needle\n"),
    file("odd\n\udcff -e name", b"needle odd\n"),
    file("long", b"needle " + "\u20ac".encode() * 3000 + b"\n"),
]


@dataclass
class Image:
    search: ImageSearch
    layers: Sequence[str]

    async def lines(self, *patterns: str, **more: Any) -> list[FoundLine]:
        query = SearchQuery(patterns=patterns, **more)
        return list((await self.search.search(self.layers, query)).lines)

    async def paths(self, *patterns: str, **more: Any) -> list[str]:
        """The files with a match, in order."""
        lines = await self.lines(*patterns, **more)
        return list(dict.fromkeys(line.path for line in lines if line.is_match))


@pytest.fixture(params=["fake", "real"])
async def image(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Image]:
    if request.param == "fake":
        fake = FakeLayers()
        yield Image(FakeImageSearch(fake), await stored(fake, tmp_path))
        return
    store = LayerDirectory(tmp_path / "layers")
    search = LayerSearch(store, tmp_path / "search")
    yield Image(search, await stored(store, tmp_path))
    search.close()
    store.close()


async def stored(store: LayerStore, tmp_path: Path) -> list[str]:
    ids = []
    for members in (LOWER, MIDDLE, UPPER):
        tar = tars.tar_bytes(members)
        blob = tars.blob(tmp_path, tar)
        layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
        ids.append(layer.diff_id)
    return ids


async def test_what_the_layers_show_is_searched_in_the_order_of_listings(image: Image) -> None:
    assert await image.paths("needle") == [
        "/etc/.hidden",
        "/etc/conf",
        "/etc/replaced",
        "/etc-after",
        "/latin",
        "/long",
        "/no-newline",
        "/odd\n\udcff -e name",
        "/secret",
        "/twin",
    ]
    assert [line.line_text for line in await image.lines("needle", paths=["/etc/replaced"])] == [
        "a needle of new\n"
    ]


async def test_a_lower_image_is_searched_as_it_was(image: Image) -> None:
    lower = Image(image.search, image.layers[:1])
    assert "/etc/gone" in await lower.paths("needle")
    assert (await lower.lines("of old"))[0].path == "/etc/replaced"


async def test_a_match_tells_where_it_is(image: Image) -> None:
    first, second = await image.lines("needle", paths=["/etc/conf"])
    assert (first.line_number, first.absolute_offset, first.line_bytes) == (2, 4, 11)
    assert (second.line_number, second.line_text) == (4, "four needle needle\n")
    assert [(s.text, s.start, s.end) for s in second.submatches] == [
        ("needle", 5, 11),
        ("needle", 12, 18),
    ]
    assert (await image.lines("needle", paths=["/no-newline"]))[0].line_text == "needle"


async def test_context_is_marked_and_shared_between_matches(image: Image) -> None:
    lines = await image.lines("needle", paths=["/etc/conf"], before=1, after=1)
    told = [(line.line_number, line.is_match, bool(line.submatches)) for line in lines]
    assert told == [
        (1, False, False),
        (2, True, True),
        (3, False, False),
        (4, True, True),
        (5, False, False),
    ]


async def test_max_count_is_of_each_file_and_context_does_not_count(image: Image) -> None:
    lines = await image.lines("needle", paths=["/etc"], max_count=1, after=2)
    assert [(line.path, line.line_number) for line in lines if line.is_match] == [
        ("/etc/.hidden", 1),
        ("/etc/conf", 2),
        ("/etc/replaced", 1),
    ]
    assert [line.line_number for line in lines if line.path == "/etc/conf"] == [2, 3, 4]


async def test_max_total_cuts_after_the_first_in_order_and_says_so(image: Image) -> None:
    query = SearchQuery(patterns=["needle"], max_total=2, before=1, after=1)
    result = await image.search.search(image.layers, query)
    assert [(line.path, line.line_number) for line in result.lines] == [
        ("/etc/.hidden", 1),
        ("/etc/conf", 1),
        ("/etc/conf", 2),
        ("/etc/conf", 3),
    ]
    assert result.truncated
    exact = SearchQuery(patterns=["needle"], paths=["/etc/conf"], max_total=2)
    assert not (await image.search.search(image.layers, exact)).truncated


async def test_several_patterns_are_alternatives(image: Image) -> None:
    assert [line.line_number for line in await image.lines("^one$", "^six", paths=["/etc"])] == [
        1,
        6,
    ]
    assert await image.paths("-e", "--files") == []


async def test_case_is_as_asked(image: Image) -> None:
    deep = ["/etc/sub"]
    assert await image.paths("needle", paths=deep) == []
    assert await image.paths("needle", paths=deep, case=CaseMode.INSENSITIVE) == ["/etc/sub/deep"]
    assert await image.paths("needle", paths=deep, case=CaseMode.SMART) == ["/etc/sub/deep"]
    assert await image.paths("NEEDLE", paths=deep, case=CaseMode.SMART) == []


async def test_paths_may_be_files_links_and_nested_and_nothing_comes_twice(image: Image) -> None:
    assert await image.paths("needle", paths=["/file-link"]) == ["/file-link"]
    assert await image.paths("needle", paths=["/link"]) == [
        "/link/.hidden",
        "/link/conf",
        "/link/replaced",
    ]
    several = await image.paths("needle", paths=["/secret", "/etc/conf", "/etc"])
    assert several == ["/secret", "/etc/conf", "/etc/.hidden", "/etc/replaced"]
    for path in ("/pipe", "/binary", "/empty"):
        assert await image.lines("", paths=[path]) == []


@pytest.mark.parametrize("path", ["/nowhere", "/etc/gone", "/etc/conf/below"])
async def test_a_path_that_is_not_there_is_told(image: Image, path: str) -> None:
    with pytest.raises(NotFoundError):
        await image.lines("needle", paths=["/etc", path])


async def test_globs_choose_files_and_later_ones_win(image: Image) -> None:
    assert await image.paths("needle", globs=["*conf"]) == ["/etc/conf"]
    assert "/etc/conf" not in await image.paths("needle", globs=["!conf"])
    assert await image.paths("needle", globs=["*e*", "!re*"]) == [
        "/etc/.hidden",
        "/etc-after",
        "/no-newline",
        "/odd\n\udcff -e name",
        "/secret",
    ]
    assert await image.paths("needle", paths=["/etc/conf"], globs=["*.py"]) == ["/etc/conf"]


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "*"])
async def test_what_is_no_regular_expression_is_refused(image: Image, pattern: str) -> None:
    with pytest.raises(InvalidFieldError, match="pattern"):
        await image.lines(pattern, paths=["/empty"])


async def test_text_that_is_not_utf_8_and_long_lines_are_shown_as_far_as_they_can_be(
    image: Image,
) -> None:
    (latin,) = await image.lines("needle", paths=["/latin"])
    assert (latin.line_text, latin.line_bytes) == ("caf\ufffd needle\n", 12)
    assert (latin.submatches[0].start, latin.submatches[0].end) == (5, 11)
    (long,) = await image.lines("needle", paths=["/long"])
    assert long.line_bytes == 9008
    assert len(long.line_text.encode()) <= 4096
    assert long.line_text.startswith("needle \u20ac")
