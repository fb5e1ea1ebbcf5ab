"""Two hosts, each a data directory, over one database and one S3; guests are fake."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from contree import bootstrap
from contree.adapters.blobs.s3_objects import S3Place
from contree.adapters.layers.shared import SPACE
from contree.adapters.system.host_mark import FileMark
from contree.app.content.drop_layers import LATE, DropLayers
from contree.app.content.remove_layers import RemoveLayers
from contree.bootstrap import DatabaseUrls
from contree.config import Settings
from contree.domain.errors import ContreeError, InvalidFieldError, UnavailableError
from contree.domain.project import ContentRemoved, project_id_of
from tests.fakes.clock import FakeClock
from tests.support.deployment import Deployment, api_of
from tests.support.s3 import client_of, place_at, variables_of

pytestmark = pytest.mark.postgres

OLD = timedelta(hours=-2)
"""As `settled`: what was added is taken to have been added long ago."""


@pytest.fixture(scope="module")
def s3_place(s3_endpoint: str) -> S3Place:
    """A bucket of this module's own: it may be taken away for a while."""
    place = place_at(s3_endpoint, bucket="two-hosts-without-guests", prefix="")
    client_of(place).create_bucket(Bucket=place.bucket)
    return place


@pytest.fixture
def store(
    s3_place: S3Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> str:
    for name, value in variables_of(s3_place).items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_place.bucket}/{request.node.name}"


@pytest.fixture
async def hosts(
    postgres_dsn: str, tmp_path: Path, store: str
) -> AsyncIterator[tuple[Deployment, Deployment]]:
    urls = DatabaseUrls(app=postgres_dsn, owner=postgres_dsn)
    async with AsyncExitStack() as stack:
        made = []
        for name in ("one", "two"):
            settings = Settings(data_dir=tmp_path / name, store=store)
            if made:
                shutil.copytree(made[0].data_dir / "keys", settings.data_dir / "keys")
            core = await stack.enter_async_context(bootstrap.core(settings, urls))
            made.append(Deployment(core, postgres_dsn))
        yield made[0], made[1]


def in_store(place: S3Place, store: str) -> set[str]:
    """The digests of the layers that the hosts share."""
    prefix = f"{store.rpartition('/')[2]}/{SPACE.hex}/"
    found = client_of(place).list_objects_v2(Bucket=place.bucket, Prefix=prefix)
    return {one["Key"].removeprefix(prefix) for one in found.get("Contents", ())}


def dropping(host: Deployment, clock: FakeClock) -> DropLayers:
    """The duty of a process that has just begun on this host."""
    core = host.core
    return DropLayers(
        recorded=core.recorded,
        projects=core.projects,
        layers=RemoveLayers(index=core.content_index, clock=core.clock, settled=OLD),
        here=core.layer_removal,
        mark=FileMark(host.data_dir / "mark"),
        clock=clock,
    )


async def test_what_one_host_has_made_the_other_reads_and_goes_on_from(
    hosts: tuple[Deployment, Deployment], s3_place: S3Place, store: str
) -> None:
    one, two = hosts
    async with api_of(one, "alpha") as api:
        run = await api.run(await one.image("alpha"), "/first")
        left = UUID((await api.operation(run))["result"]["image"])
        made = one.layers()
        assert len(made) == 1
        assert in_store(s3_place, store) == made
    assert two.layers() == set()
    async with api_of(two, "alpha") as api:
        shown = (await api.operation(run))["metadata"]["result"]["stdout"]
        assert shown["value"] == "/first"
        status, listing = await api.ask("GET", f"/v1/inspect/{left}/list?path=/")
        assert (status, "first" in str(listing)) == (200, True)
        assert two.layers() == made
        await api.run(left, "/second")
        assert in_store(s3_place, store) == two.layers() > made


async def test_every_host_drops_what_is_erased_and_the_store_is_cleaned_once(
    hosts: tuple[Deployment, Deployment], s3_place: S3Place, store: str
) -> None:
    one, two = hosts
    clock = FakeClock(one.core.clock.now())
    await dropping(two, clock).look()  # it has been here before
    async with api_of(one, "alpha") as api, api_of(two, "beta") as other:
        run = await api.run(await one.image("alpha"), "/shared")
        shared = UUID((await api.operation(run))["result"]["image"])
        both = one.layers()
        private = await api.run(shared, "/private")
        theirs = await other.run(await two.image("beta"), "/shared")
        assert two.layers() == both
    async with api_of(two, "alpha") as api:
        left = (await api.operation(private))["result"]["image"]
        assert (await api.ask("GET", f"/v1/inspect/{left}/list?path=/"))[0] == 200
    assert one.layers() == two.layers() == in_store(s3_place, store)
    assert len(one.layers() - both) == 1
    await one.keep.erase("alpha", reason="Art. 17")
    fresh = await one.removal(settled=timedelta(0)).clear(project_id_of("alpha"))
    assert not fresh.is_complete, "somebody may be about to have what was added just now"
    assert one.layers() == in_store(s3_place, store) > both
    outcome = await one.removal(settled=OLD).clear(project_id_of("alpha"))
    assert (outcome.is_complete, outcome.layers.layer_count) == (True, 1)
    assert in_store(s3_place, store) == both
    again = await two.removal(settled=OLD).clear(project_id_of("alpha"))
    assert (again.is_complete, again.is_nothing) == (True, True)
    assert await recorded(one) == [(False, 0), (True, 1)]
    clock.advance(60)
    await dropping(one, clock).look()
    assert one.layers() == both
    assert len(two.layers()) == 2, "it was away"
    await dropping(two, clock).look()
    assert two.layers() == both
    async with api_of(one, "beta") as other:
        kept = (await other.operation(theirs))["result"]["image"]
        assert (await other.ask("GET", f"/v1/inspect/{kept}/list?path=/"))[0] == 200


async def recorded(host: Deployment) -> list[tuple[bool, int]]:
    """Whether each removal that is recorded was the last of its project, and how many layers."""
    events = await host.core.recorded.read(after=0)
    facts = [orjson.loads(e.state) for e in events if e.topic == ContentRemoved.TOPIC]
    return [(one["complete"], one["layer_count"]) for one in facts]


async def test_a_download_that_ended_late_is_dropped_too_and_the_mark_waits_for_it(
    hosts: tuple[Deployment, Deployment],
) -> None:
    one, two = hosts
    clock = FakeClock(one.core.clock.now())
    async with api_of(one, "alpha") as api:
        await api.run(await one.image("alpha"), "/private")
    (digest,) = one.layers()
    shutil.copytree(one.data_dir / "layers" / digest, two.data_dir / "late")
    drop = dropping(two, clock)
    await drop.look()
    await one.keep.erase("alpha", reason="Art. 17")
    await one.removal(settled=OLD).clear(project_id_of("alpha"))
    head = await one.core.recorded.head()
    mark = FileMark(two.data_dir / "mark")
    clock.advance(60)
    await drop.look()
    shutil.copytree(two.data_dir / "late", two.data_dir / "layers" / digest)
    assert (mark.read() or 0) < head, "who begins now must hear of the erasure"
    clock.advance(LATE.total_seconds() + 60)
    await dropping(two, clock).look()
    assert two.layers() == set()
    assert mark.read() == head


async def test_a_host_without_a_mark_looks_at_all_that_was_erased(
    hosts: tuple[Deployment, Deployment],
) -> None:
    one, _ = hosts
    async with api_of(one, "alpha") as api:
        await api.run(await one.image("alpha"), "/private")
    await one.keep.erase("alpha", reason="Art. 17")
    await one.removal(settled=OLD).clear(project_id_of("alpha"))
    assert len(one.layers()) == 1
    await dropping(one, FakeClock(one.core.clock.now() + timedelta(minutes=1))).look()
    assert one.layers() == set()


async def test_what_only_the_store_has_is_said_to_be_away_while_it_is(
    hosts: tuple[Deployment, Deployment], s3_place: S3Place
) -> None:
    one, two = hosts
    async with api_of(one, "alpha") as api, api_of(two, "alpha") as other:
        run = await api.run(await one.image("alpha"), "/made")
        left = (await api.operation(run))["result"]["image"]
        listing = ("GET", f"/v1/inspect/{left}/list?path=/")
        with without_bucket(s3_place):
            for method, path, options in (
                (*listing, {}),
                ("POST", "/v1/files", {"data": b"x"}),
            ):
                status, answer = await other.ask(method, path, **options)
                assert (status, answer["code"]) == (503, "unavailable"), path
                assert s3_place.bucket in answer["error"]
            assert (await api.ask(*listing))[0] == 200, "this host has a copy"
        assert (await other.ask(*listing))[0] == 200


@contextmanager
def without_bucket(place: S3Place) -> Iterator[None]:
    """Take the bucket away from its service, and bring it back as it was."""
    client = client_of(place)
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=place.bucket).get("Contents", ())]
    kept = {k: client.get_object(Bucket=place.bucket, Key=k)["Body"].read() for k in keys}
    for key in keys:
        client.delete_object(Bucket=place.bucket, Key=key)
    client.delete_bucket(Bucket=place.bucket)
    try:
        yield
    finally:
        client.create_bucket(Bucket=place.bucket)
        for key, data in kept.items():
            client.put_object(Bucket=place.bucket, Key=key, Body=data)


@pytest.mark.parametrize(
    ("setting", "error", "says"),
    [
        ("/srv/contree", InvalidFieldError, "is not s3://BUCKET/PREFIX"),
        ("s3:///prefix", InvalidFieldError, "is not s3://BUCKET/PREFIX"),
        ("s3://missing/prefix", UnavailableError, "no such bucket"),
    ],
)
async def test_a_store_that_cannot_be_used_is_said_at_the_start(
    postgres_dsn: str,
    tmp_path: Path,
    store: str,
    setting: str,
    error: type[ContreeError],
    says: str,
) -> None:
    assert store, "the service is there"
    urls = DatabaseUrls(app=postgres_dsn, owner=postgres_dsn)
    with pytest.raises(error, match=says):
        async with bootstrap.core(Settings(data_dir=tmp_path, store=setting), urls):
            pass


async def test_without_a_store_there_are_no_copies_to_bound(
    postgres_dsn: str, tmp_path: Path
) -> None:
    urls = DatabaseUrls(app=postgres_dsn, owner=postgres_dsn)
    with pytest.raises(InvalidFieldError, match=r"layer_cache_gib: .*set store"):
        async with bootstrap.core(Settings(data_dir=tmp_path, layer_cache_gib=1), urls):
            pass


async def test_a_host_with_a_key_of_its_own_is_refused(
    hosts: tuple[Deployment, Deployment], tmp_path: Path, store: str
) -> None:
    one, _ = hosts
    await one.core.content.put_bytes(project_id_of("alpha"), b"x")
    settings = Settings(data_dir=tmp_path / "three", store=store)
    urls = DatabaseUrls(app=one.dsn, owner=one.dsn)
    with pytest.raises(ContreeError, match="same keys/"):
        async with bootstrap.core(settings, urls):
            pass
