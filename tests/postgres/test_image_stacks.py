"""The stack of an image: read from few rows at any depth, and written by rows that do not grow."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from uuid import UUID

import asyncpg
import pytest

from contree.adapters.postgres.content_index import OWN_LAYERS, PostgresContentIndex
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.pool import PostgresDatabase
from contree.adapters.postgres.rebuild import compare, rebuild
from contree.domain.context import Context
from contree.domain.image import Image, RecordedEnvironment
from contree.projections import ALL, SqlImageReads
from contree.projections.images import STACK, STRIDE
from tests.fakes.clock import FakeClock, FakeIds
from tests.support.histories import context_at, digest_of
from tests.support.postgres import rows_read

pytestmark = pytest.mark.postgres

SPACES = itertools.count(0xD00)
DEPTH = 10_000
APPENDED_AT_ONCE = 500


class Tree:
    """Images that come of one another, in the order of their making."""

    def __init__(self, *, space: int) -> None:
        self.ids = FakeIds(space=space)
        self.project_id = self.ids.new_id()
        self.context: Context = context_at(FakeClock(), self.project_id)

    def imported(self, layers: Sequence[str]) -> Image:
        return Image.imported(
            self.context,
            operation_id=self.ids.new_id(),
            registry_url="docker://r/i:t",
            manifest_digest="sha256:m",
            config_digest=f"sha256:{self.ids.new_id()}",
            layers=layers,
            environment=RecordedEnvironment(env={"PATH": "/bin" * 1000}),
            workdir="/",
            size_bytes=5,
        )

    def on(self, parent: Image, *, layer: str | None) -> Image:
        return parent.committed(
            self.context,
            operation_id=self.ids.new_id(),
            layer=layer,
            workdir="/",
            size_bytes=0 if layer is None else 1,
        )

    def chain(self, below: Image, *, length: int) -> list[Image]:
        """Images on `below`, each a run deeper, each with a layer of its own."""
        images: list[Image] = []
        for _ in range(length):
            below = self.on(below, layer=f"sha256:{digest_of(str(self.ids.new_id()))}")
            images.append(below)
        return images

    def grown(self, choices: random.Random, *, size: int) -> list[Image]:
        """Deep chains that branch: most images are made on the newest one."""
        images: list[Image] = []
        for _ in range(size):
            chance = choices.random()
            if not images or chance < 0.01:
                layers = [f"sha256:{digest_of(str(n))}" for n in range(choices.randrange(4))]
                images.append(self.imported(layers))
                continue
            parent = images[-1] if chance < 0.95 else choices.choice(images)
            # Some change no file, and some leave what another has left too.
            layer = choices.choice((None, *(f"sha256:{digest_of(str(n))}" for n in range(9))))
            images.append(self.on(parent, layer=layer))
        return images


@pytest.mark.parametrize(("seed", "at_once"), [(1, 1), (2, 7), (3, 300), (4, 300)])
async def test_every_stack_of_any_tree_is_what_its_images_added(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, seed: int, at_once: int
) -> None:
    """However many images one append holds; and a rebuild comes to the same rows."""
    tree = Tree(space=next(SPACES))
    images = tree.grown(random.Random(seed), size=300)
    log, reads = PostgresEventLog(postgres_pool, ALL), reads_of(postgres_pool)
    for start in range(0, len(images), at_once):
        await log.append(*images[start : start + at_once])
    stacks: dict[UUID | None, list[str]] = {None: []}
    for image in images:
        stacks[image.id] = [*stacks[image.parent_image_id], *image.own_layers]
        assert await reads.stack(tree.project_id, image.id) == stacks[image.id]
    assert max(image.depth for image in images) > STRIDE
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()


def reads_of(pool: asyncpg.Pool) -> SqlImageReads:
    return SqlImageReads(PostgresDatabase(pool))


async def test_depth_costs_the_log_nothing_and_a_stack_few_rows(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    tree = Tree(space=next(SPACES))
    log, reads = PostgresEventLog(postgres_pool, ALL), reads_of(postgres_pool)
    base = tree.imported([f"sha256:{digest_of('base')}"])
    chain = tree.chain(base, length=DEPTH)
    branches = [tree.chain(chain[at - 1], length=1)[0] for at in (1, 63, 64, 5_000, DEPTH)]
    images = [base, *chain, *branches]
    for start in range(0, len(images), APPENDED_AT_ONCE):
        await log.append(*images[start : start + APPENDED_AT_ONCE])

    sizes = await postgres_pool.fetch(
        "SELECT octet_length(state) - octet_length(depth::text) AS rest "
        "FROM stored_events JOIN images ON image_id = originator_id WHERE depth > 0"
    )
    assert len(sizes) == len(images) - 1
    assert len({row["rest"] for row in sizes}) == 1, "but for the digits of its depth"

    row_bytes = await postgres_pool.fetchval("SELECT max(pg_column_size(i.*)) FROM images i")
    assert row_bytes < (STRIDE + 3) * 80

    async def check() -> None:
        for depth in (1, 63, 64, 65, 5_000, DEPTH):
            image = chain[depth - 1]
            expected = [*base.own_layers, *(one.own_layers[0] for one in chain[:depth])]
            assert await reads.stack(tree.project_id, image.id) == expected
            read = await rows_read(postgres_pool, STACK, image.id, tree.project_id)
            assert read <= STRIDE + depth // STRIDE + 1
        for branch in branches:
            below = await reads.stack(tree.project_id, chain[branch.depth - 2].id)
            stack = await reads.stack(tree.project_id, branch.id)
            assert stack == [*below, *branch.own_layers]

    await check()
    await rebuild(postgres_dsn, projections=ALL)
    await check()


async def test_an_image_is_refused_by_a_read_model_that_lacks_one_below(
    postgres_pool: asyncpg.Pool,
) -> None:
    """A wrong stack is never written: nothing is appended then."""
    tree = Tree(space=next(SPACES))
    log = PostgresEventLog(postgres_pool, ALL)
    base = tree.imported(["sha256:a"])
    chain = tree.chain(base, length=STRIDE)
    await log.append(base, *chain[:-1])
    await postgres_pool.execute("DELETE FROM images WHERE image_id = $1", chain[7].id)
    with pytest.raises(asyncpg.CheckViolationError):
        await log.append(chain[-1])
    assert await log.load(Image, chain[-1].id) is None
    with pytest.raises(RuntimeError, match="lacks an image below"):
        await reads_of(postgres_pool).stack(tree.project_id, chain[-2].id)


async def test_layers_of_one_project_alone_are_found_without_reading_the_others(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    mine, theirs = Tree(space=next(SPACES)), Tree(space=next(SPACES))
    log = PostgresEventLog(postgres_pool, ALL)
    shared = ["sha256:a", "sha256:b"]
    own, other = mine.imported([*shared, "sha256:m"]), theirs.imported(shared)
    mine_only = [own, *mine.chain(own, length=3)]
    both = mine.on(mine_only[-1], layer="sha256:equal delta")
    await log.append(*mine_only, both)
    await log.append(other, theirs.on(other, layer="sha256:equal delta"))
    await log.append(*theirs.chain(other, length=2_000))
    expected = sorted({"sha256:m", *(layer for i in mine_only[1:] for layer in i.own_layers)})
    index = PostgresContentIndex(postgres_pool)
    for _ in range(2):
        assert await index.own_layers(mine.project_id) == expected
        read = await rows_read(postgres_pool, OWN_LAYERS, mine.project_id)
        assert read < 20
        connection = await asyncpg.connect(postgres_dsn)
        await connection.execute("ANALYZE")
        await connection.close()
