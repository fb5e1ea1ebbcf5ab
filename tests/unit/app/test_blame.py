"""Blame against annotating forwards: each version's new lines are its own, the rest stay."""

from __future__ import annotations

import asyncio
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from contree.domain.line_edits import line_edits, lines_of
from contree.domain.project import project_id_of
from tests.unit.http.world import World

TEXTS = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n"]), max_size=8).map(b"".join)


def annotated(versions: list[bytes]) -> list[int]:
    """Return for each line of the last version in which one it came."""
    lines, found = lines_of(versions[0]), [0] * len(lines_of(versions[0]))
    for number, text in enumerate(versions[1:], 1):
        after = lines_of(text)
        for edit in reversed(line_edits(lines, after)):
            count = edit.after_end - edit.after_start
            found[edit.before_start : edit.before_end] = [number] * count
        lines = after
    return found


async def blamed(versions: list[bytes]) -> list[int]:
    world = World()
    images: list[UUID] = []
    for number, text in enumerate(versions):
        files = {"/f": text, "/n": b"%d" % number}  # a run that leaves the file alone is one too
        if not images:
            images.append(await world.image(layers=[world.layers.put_files(files)]))
        else:
            images.append(await world.ran(images[-1], "edit", files))
    found = await world.services().blame.of(project_id_of("alpha"), images[-1], "/f")
    return [images.index(some.image.image_id) for some in found.lines for _ in some.texts]


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_lines_are_blamed_on_the_version_that_brought_them(versions: list[bytes]) -> None:
    assert asyncio.run(blamed(versions)) == annotated(versions)
