"""Erasure, legal hold, retention end to end: real API, log, stores and layers; guests are fake."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from contree import bootstrap
from contree.adapters.blobs.directory_blobs import DirectoryBlobStore
from contree.adapters.layers.removal import LayerRemovals
from contree.adapters.postgres.chain import verify_chain
from contree.adapters.postgres.rebuild import compare, rebuild
from contree.adapters.system.project_cipher import AesCiphers
from contree.app.conclude import Conclude
from contree.app.content.project_content import ProjectContent
from contree.app.content.remove_content import Outcome, RemovalDuty, RemoveContent
from contree.bootstrap import DatabaseUrls
from contree.config import Settings
from contree.domain.errors import (
    ContentDamagedError,
    ContentErasedError,
    ContreeError,
    InvalidTransitionError,
    NotFoundError,
    UnavailableError,
)
from contree.domain.project import project_id_of
from contree.projections import ALL
from tests.fakes.clock import FakeClock
from tests.support.deployment import NOTHING_FRESH, Deployment, api_of

pytestmark = pytest.mark.postgres

SECRET = "the plain text that must not lie about"
VALUE = "value-of-a-variable-4711"


@pytest.fixture
async def deployment(postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    settings = Settings(data_dir=tmp_path)
    async with bootstrap.core(settings, DatabaseUrls(app=postgres_dsn, owner=postgres_dsn)) as core:
        yield Deployment(core, postgres_dsn)


def on_disk(root: Path) -> Mapping[Path, bytes]:
    return {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}


async def stored_rows(dsn: str) -> bytes:
    """Everything that the database holds of log, journals and read models, as bytes."""
    connection = await asyncpg.connect(dsn)
    try:
        parts = [
            await connection.fetchval(f"SELECT string_agg({column}, '') FROM {table}")
            for table, column in (
                ("stored_events", "convert_from(state, 'UTF8')"),
                ("operation_journal", "data::text"),
                ("read.operations", "request::text"),
            )
        ]
    finally:
        await connection.close()
    return "".join(part or "" for part in parts).encode()


async def test_content_lies_encrypted_and_reads_as_it_was_sent(deployment: Deployment) -> None:
    async with api_of(deployment, "alpha") as api:
        image = await deployment.image("alpha")
        status, file = await api.ask("POST", "/v1/files", data=SECRET.encode())
        assert status == 201
        run = await api.run(
            image,
            "output ",
            env={"WHO": VALUE, "GONE": None},
            stdin={"value": SECRET, "encoding": "ascii", "close": True},
            preserve_env=True,
        )
        shown = await api.operation(run)
        assert shown["metadata"]["env"] == {"WHO": VALUE, "GONE": None}
        assert shown["metadata"]["stdin"]["value"] == SECRET
        assert shown["metadata"]["result"]["stdout"]["value"] == "output " + VALUE
        again = await api.run(UUID(shown["result"]["image"]), "then ")
        assert (await api.operation(again))["metadata"]["result"]["stdout"]["value"] == (
            "then " + VALUE
        )
        _, events = await api.ask("GET", f"/v1/operations/{run}/events")
        assert VALUE in events
    status, found = 0, on_disk(deployment.data_dir / "content")
    assert len(found) >= 3
    plain = (SECRET.encode(), VALUE.encode(), file["sha256"].encode())
    assert not [path for path, data in found.items() for text in plain[:2] if text in data]
    assert not [path for path in found if file["sha256"] in str(path)]
    rows = await stored_rows(deployment.dsn)
    assert VALUE.encode() not in rows
    assert b"WHO" in rows, "names stay readable"


@pytest.mark.parametrize("packed", [False, True])
async def test_erasure_takes_the_content_and_leaves_the_facts(
    deployment: Deployment, packed: bool
) -> None:
    core = deployment.core
    async with api_of(deployment, "alpha") as api, api_of(deployment, "beta") as other:
        image, kept = await deployment.image("alpha"), await deployment.image("beta")
        await api.ask("POST", "/v1/files", data=SECRET.encode())
        run = await api.run(image, SECRET, env={"WHO": VALUE})
        digest = (await core.operations.get(project_id_of("alpha"), run)).outcome["stdout"]
        their_run = await other.run(kept, SECRET)
        if packed:
            await core.packing.look()
        shutil.copytree(deployment.data_dir / "content", deployment.data_dir / "copy")
        await deployment.keep.erase("alpha", reason="Art. 17")
        assert (await api.ask("GET", f"/v1/operations/{run}"))[0] == 401
        outcome = await deployment.removal().clear(project_id_of("alpha"))
        assert outcome.is_complete
        assert (outcome.removed.blob_count, outcome.journal_count) == (3 + packed, 1)
        await core.packing.look()
        connection = await asyncpg.connect(deployment.dsn)
        assert await connection.fetchval("SELECT count(*) FROM operation_journal") == 0
        await connection.close()
        theirs = (await other.operation(their_run))["metadata"]["result"]["stdout"]
        assert theirs["value"] == SECRET
        await core.packing.look()
        _, events = await other.ask("GET", f"/v1/operations/{their_run}/events")
        assert SECRET in events
    copy = DirectoryBlobStore(deployment.data_dir / "copy")
    keys = core.content._keys
    with pytest.raises(ContentErasedError):
        await ProjectContent(keys=keys, blobs=copy).read_bytes(
            project_id_of("alpha"), digest["sha256"]
        )
    guessed = AesCiphers().cipher(AesCiphers().new_key())
    for data in on_disk(deployment.data_dir / "copy" / project_id_of("alpha").hex).values():
        decryption = guessed.decryption(digest["sha256"])
        decryption.update(data)
        with pytest.raises(ContentDamagedError):
            decryption.finish()
    assert not (deployment.data_dir / "content" / project_id_of("alpha").hex).exists()
    await assert_log_is_whole(deployment.dsn)


async def assert_log_is_whole(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    assert (await verify_chain(connection)).broken_at is None
    await connection.close()
    assert (await compare(dsn, projections=ALL)).differences == ()
    await rebuild(dsn, projections=ALL)
    assert (await compare(dsn, projections=ALL)).differences == ()


async def test_a_reader_of_an_erased_project_sees_facts_and_is_told(deployment: Deployment) -> None:
    async with api_of(deployment, "alpha") as api:
        image = await deployment.image("alpha")
        run = await api.run(image, SECRET, env={"WHO": VALUE})
        left = (await api.operation(run))["result"]["image"]
    await deployment.keep.erase("alpha", reason="Art. 17")
    async with api_of(deployment, "alpha") as api:
        shown = await api.operation(run)
        assert shown["status"] == "SUCCESS"
        assert shown["metadata"]["env"] == {"WHO": "<ERASED>"}
        assert shown["metadata"]["result"]["stdout"] == {
            "value": "",
            "encoding": "ascii",
            "truncated": True,
        }
        body = {"image": str(image), "command": "tell"}
        for method, path, options in (
            ("GET", f"/v1/operations/{run}/events", {}),
            ("GET", f"/v1/operations/{run}/subprocesses/1", {}),
            ("GET", f"/v1/inspect/{left}/list?path=/", {}),
            ("POST", "/v1/instances", {"json": body}),
            ("POST", "/v1/files", {"data": b"x"}),
        ):
            status, answer = await api.ask(method, path, **options)
            assert (status, answer["code"]) == (410, "content_erased"), path
            assert "erased on 20" in answer["error"]


async def test_what_runs_is_stopped_before_anything_is_removed(deployment: Deployment) -> None:
    async with api_of(deployment, "alpha") as api:
        body = {"image": str(await deployment.image("alpha")), "command": "tell"}
        await api.ask("POST", "/v1/instances", json=body)
        running = await deployment.claim()
        await api.ask("POST", "/v1/instances", json=body)
    await deployment.keep.erase("alpha", reason="Art. 17")
    removal = deployment.removal()
    assert not (await removal.clear(project_id_of("alpha"))).is_complete
    unended = await deployment.core.content_index.unended(project_id_of("alpha"))
    assert unended == [running[0].id], "the pending one is cancelled at once"
    core = deployment.core
    conclude = Conclude(
        log=core.log, outages=core.outages, clock=core.clock, ids=core.ids, actor="w"
    )
    await conclude.lose(running[0].id, "stopped")
    assert (await removal.clear(project_id_of("alpha"))).is_complete
    row = await deployment.core.projects.get(project_id_of("alpha"))
    assert row is not None
    assert row.cleared_at is not None


async def test_layers_that_only_the_erased_project_has_are_destroyed(
    deployment: Deployment,
) -> None:
    async with api_of(deployment, "alpha") as api, api_of(deployment, "beta") as other:
        image, theirs = await deployment.image("alpha"), await deployment.image("beta")
        shared = (await api.operation(await api.run(image, "/shared")))["result"]["image"]
        both = deployment.layers()
        assert len(both) == 1
        await api.run(UUID(shared), "/private")
        private = deployment.layers() - both
        assert len(private) == 1
        their_run = await other.run(theirs, "/shared")
        assert deployment.layers() == both | private, "an equal delta is an equal layer"
        await deployment.keep.erase("alpha", reason="Art. 17")
        held = deployment.removal(settled=timedelta(hours=1))
        assert not (await held.clear(project_id_of("alpha"))).is_complete, "it may be wanted"
        assert deployment.layers() == both | private
        outcome = await deployment.removal().clear(project_id_of("alpha"))
        assert outcome.is_complete
        assert outcome.layers.layer_count == 1
        assert deployment.layers() == both
        left = (await other.operation(their_run))["result"]["image"]
        status, listing = await other.ask("GET", f"/v1/inspect/{left}/list?path=/")
        assert status == 200
        assert "shared" in str(listing)
    await assert_log_is_whole(deployment.dsn)


class Meeting(LayerRemovals):
    """Has `other` begin its pass just after this one set a layer aside, and come to the door."""

    def __init__(self, data_dir: Path, other: Callable[[], Awaitable[Outcome]]) -> None:
        super().__init__(data_dir / "layers", data_dir / "search")
        self._other = other
        self._asked = asyncio.Event()
        self.meanwhile: asyncio.Task[Outcome] | None = None

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        if self.meanwhile is not None:
            self._asked.set()
        async with super().alone():
            yield

    async def set_aside(self, diff_id: str, *, added_before: datetime) -> bool:
        is_aside = await super().set_aside(diff_id, added_before=added_before)
        if self.meanwhile is None:
            self.meanwhile = asyncio.create_task(self._other())
            await self._asked.wait()
        return is_aside


async def test_two_passes_at_once_do_not_undo_each_other(deployment: Deployment) -> None:
    """The command's and the duty's: what one has set aside the other does not put back."""
    alpha = project_id_of("alpha")
    async with api_of(deployment, "alpha") as api:
        await api.run(await deployment.image("alpha"), "/private")
    await deployment.keep.erase("alpha", reason="Art. 17")
    removals = Meeting(deployment.data_dir, lambda: removal.clear(alpha))
    removal = deployment.removal(parts=replace(deployment.core, layer_removal=removals))
    outcome = await removal.clear(alpha)
    assert removals.meanwhile is not None
    assert (await removals.meanwhile).is_complete
    assert (outcome.is_complete, outcome.layers.layer_count) == (True, 1)
    assert deployment.layers() == set()
    assert await removals.aside() == []


async def test_a_legal_hold_keeps_everything(deployment: Deployment) -> None:
    async with api_of(deployment, "alpha") as api:
        run = await api.run(await deployment.image("alpha"), SECRET)
        await deployment.keep.set_retention("alpha", days=1)
        await deployment.keep.hold("alpha", reason="case 7")
        with pytest.raises(InvalidTransitionError, match="case 7"):
            await deployment.keep.erase("alpha", reason="Art. 17")
        assert not await deployment.removal().apply_retention(project_id_of("alpha"))
        assert (await deployment.keep.row("alpha")).hold_reason == "case 7"
        assert SECRET in str(await api.operation(run))
        await deployment.keep.release("alpha")
        await deployment.keep.erase("alpha", reason="Art. 17")


async def test_retention_removes_what_nothing_newer_needs(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, core = project_id_of("alpha"), deployment.core
    async with api_of(deployment, "alpha") as api:
        image = await deployment.image("alpha")
        now = core.clock.now()
        monkeypatch.setattr(core.clock, "now", lambda: now - timedelta(days=3))
        old = await api.run(image, "/old")
        common = await api.run(image, "/common")
        monkeypatch.setattr(core.clock, "now", lambda: now)
        new = await api.run(image, "/common")
        _, events = await api.ask("GET", f"/v1/operations/{new}/events")
        await deployment.keep.set_retention("alpha", days=2)
        removal = deployment.removal()
        assert await removal.apply_retention(alpha)
        assert not await removal.apply_retention(alpha), "once is enough"
        unpacked = await removal.sweep(alpha)
        assert (unpacked.is_complete, unpacked.journal_count) == (False, 0)
        assert unpacked.removed.blob_count == 1, "the common output is still needed"
        await core.packing.look()
        fresh = deployment.removal(fresh=timedelta(hours=1))
        outcome = await fresh.sweep(alpha)
        assert (outcome.is_complete, outcome.journal_count) == (False, 2)
        outcome = await removal.sweep(alpha)
        assert outcome == Outcome(is_complete=True, removed=outcome.removed)
        assert outcome.removed.blob_count == 2, "the journals"
        for run in (old, common):
            shown = await api.operation(run)
            assert shown["status"] == "SUCCESS"
            assert shown["metadata"]["result"]["stdout"]["truncated"]
            status, answer = await api.ask("GET", f"/v1/operations/{run}/events")
            assert (status, answer["code"]) == (410, "content_expired")
        assert (await api.ask("GET", f"/v1/operations/{new}/events"))[1] == events
        kept = (await api.operation(new))["metadata"]["result"]["stdout"]
        assert (kept["value"], kept["truncated"]) == ("/common", False)
        row = await deployment.keep.row("alpha")
        assert row.swept_cut == row.content_cut is not None
    await assert_log_is_whole(deployment.dsn)


class Stubborn(RemoveContent):
    """Fails at one project, as one that was changed meanwhile makes it fail."""

    failing: UUID = project_id_of("alpha")
    error: ContreeError = InvalidTransitionError("changed meanwhile")

    async def clear(self, project_id: UUID) -> Outcome:
        if project_id == self.failing:
            raise self.error
        return await super().clear(project_id)


async def test_the_duty_does_what_is_due_and_one_project_does_not_hold_up_others(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, clock = deployment.core, FakeClock(deployment.core.clock.now())
    monkeypatch.setattr(core.clock, "now", lambda: clock.now() - timedelta(days=3))
    async with api_of(deployment, "beta") as api, api_of(deployment, "gamma") as other:
        image = await deployment.image("beta")
        await api.run(image, "/old")
        kept = await other.run(await deployment.image("gamma"), "/kept")
        monkeypatch.setattr(core.clock, "now", clock.now)
        for name in ("alpha", "delta"):
            await deployment.token(name)
            await deployment.keep.erase(name, reason="Art. 17")
        await deployment.keep.set_retention("beta", days=2)
        await core.packing.look()
        options = {"fresh": NOTHING_FRESH, "settled": NOTHING_FRESH}
        removal = Stubborn(core, actor="worker:w", **options)
        duty = RemovalDuty(removal=removal, projects=core.projects, clock=clock)
        await duty.look()
        rows = {row.name: row for row in await core.projects.list()}
        assert rows["alpha"].cleared_at is None
        assert rows["delta"].cleared_at is not None
        assert rows["beta"].swept_cut == rows["beta"].content_cut is not None
        assert (await other.operation(kept))["metadata"]["result"]["stdout"]["value"] == "/kept"
        # Cuts are whole hours: within one there is nothing more to find, and nothing is asked.
        head = await core.recorded.head()
        await duty.look()
        assert await core.recorded.head() == head
        await api.run(image, "/older by then")
        await core.packing.look()
        clock.advance(3 * 24 * 3600)
        await duty.look()
        row = await deployment.keep.row("beta")
        assert row.swept_cut == row.content_cut != rows["beta"].content_cut
    removal.error = UnavailableError("away")
    with pytest.raises(UnavailableError, match="away"):
        await duty.look()
    removal.failing = UUID(int=0)
    await duty.look()
    assert (await deployment.keep.row("alpha")).cleared_at is not None


async def test_unknown_projects_are_refused(deployment: Deployment) -> None:
    with pytest.raises(NotFoundError):
        await deployment.keep.erase("nobody", reason="x")
