"""`contreed audit` as an operator and an outsider type it: beside a server, and without one."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from contree import bootstrap
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.pool import open_pool
from contree.bootstrap import proof as proofs
from contree.config import Settings
from contree.domain.operation import Operation, Status
from contree.projections import ALL
from tests.support.histories import History
from tests.support.proofs import SeededSigner
from tests.support.server import CONTREED, RunningServer

pytestmark = pytest.mark.postgres

STEPS = 150
HELP = {
    "": ("key", "verify", "prove", "export", "consistency", "check", "rebuild"),
    "key": ("--data-dir",),
    "verify": ("--after", "--key", "--dsn", "--checkpoints"),
    "prove": ("OPERATION", "--output", "--key"),
    "export": ("FILE", "--after", "--until"),
    "consistency": ("--from", "--to", "--output", "--key"),
    "check": ("BUNDLE", "--key"),
    "rebuild": ("--data-dir",),
}


class Stopped(RunningServer):
    """A data directory with a log and one checkpoint of it; `operation_id` left an image."""

    operation_id = ""
    event_count = 0

    async def fill(self) -> None:
        settings = Settings(data_dir=self.data_dir)
        proofs.note_signer(settings, make=True)
        history = History(5)
        async with bootstrap.database(settings) as database:
            pool = await open_pool(database.app)
            log = PostgresEventLog(pool, ALL)
            for touched in history.steps(STEPS):
                await log.append(*touched)
            await pool.close()
            async with proofs.proof_of(settings, database.app) as proof:
                newest = await proof.newest([])
                self.event_count = newest.checkpoint.size
        self.operation_id = next(
            str(a.id)
            for a in history.aggregates.values()
            if isinstance(a, Operation) and a.status is Status.SUCCESS and a.result_image_id
        )

    async def sign_more(self) -> None:
        """Record more, and sign a checkpoint over it."""
        settings = Settings(data_dir=self.data_dir)
        async with (
            bootstrap.database(settings) as database,
            await open_pool(database.app) as pool,
            proofs.proof_of(settings, database.app) as proof,
        ):
            log = PostgresEventLog(pool, ALL)
            for touched in History(6).steps(20):
                await log.append(*touched)
            newest = await proof.newest([])
            self.event_count = newest.checkpoint.size

    @property
    def checkpoints(self) -> dict[int, Path]:
        """The stored checkpoints by their size, in order."""
        files = (self.data_dir / "checkpoints").iterdir()
        return dict(sorted((int(file.read_text().splitlines()[1]), file) for file in files))

    def owner_does(self, *statements: str) -> None:
        async def execute() -> None:
            async with bootstrap.database(Settings(data_dir=self.data_dir)) as database:
                owner = await asyncpg.connect(database.owner)
                for statement in statements:
                    await owner.execute(statement)
                await owner.close()

        asyncio.run(execute())


@pytest.fixture(scope="module")
def stopped() -> Iterator[Stopped]:
    made = Stopped(Path(tempfile.mkdtemp(prefix="contree-test-")))
    asyncio.run(made.fill())
    yield made
    try:
        made.want_no_processes()
    finally:
        made.remove()


def check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """As an outsider, who has the file and no data directory."""
    return subprocess.run(
        [CONTREED, "audit", "check", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(done: subprocess.CompletedProcess[str], said: str, *, status: int = 1) -> None:
    assert done.returncode == status
    assert re.search(said, done.stderr), done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("action", HELP)
def test_help_names_what_there_is(action: str) -> None:
    done = subprocess.run(
        [CONTREED, "audit", *action.split(), "--help"], check=True, capture_output=True, text=True
    )
    for word in HELP[action]:
        assert word in done.stdout


def test_a_whole_log_is_all_right(stopped: Stopped) -> None:
    lines = stopped.contreed("audit", "verify").stdout.splitlines()
    count = stopped.event_count
    assert lines[0] == f"checked {count} events, up to position {count}; 1 checkpoints fit"
    assert f"covers the log's first {count} events, signed " in lines[1]
    assert lines[2:] == ["all right"]
    lines = stopped.contreed("audit", "verify", "--after", "100").stdout.splitlines()
    assert lines[0].startswith(f"checked {count - 100} events, up to position {count};")
    assert lines[-1] == "all right"


@pytest.mark.parametrize("after", ["-1", str(2**70)])
def test_a_start_outside_the_log_is_refused(stopped: Stopped, after: str) -> None:
    refused(
        stopped.contreed("audit", "verify", "--after", after, check=False),
        f"after: the log has positions 1 to {stopped.event_count}, not {after}",
        status=3,  # nothing was checked
    )


def test_another_key_believes_no_checkpoint(stopped: Stopped) -> None:
    stranger = str(SeededSigner("stranger").key)
    done = stopped.contreed("audit", "verify", "--key", stranger, check=False)
    assert done.returncode == 1
    assert "not by a key that we know" in done.stdout
    assert done.stdout.endswith("NOT right\n")


def test_a_bad_row_is_named(stopped: Stopped) -> None:
    stopped.owner_does(
        "ALTER TABLE stored_events DISABLE TRIGGER USER",
        "UPDATE stored_events SET state = state || ' ' WHERE notification_id = 100",
    )
    try:
        done = stopped.contreed("audit", "verify", check=False)
    finally:
        stopped.owner_does(
            "UPDATE stored_events SET state = substr(state, 1, octet_length(state) - 1) "
            "WHERE notification_id = 100",
            "ALTER TABLE stored_events ENABLE TRIGGER USER",
        )
    assert (done.returncode, done.stderr) == (1, "")
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert re.match(f"position 100, aggregate {uuid}: .*it was change", done.stdout)
    assert done.stdout.endswith("NOT right\n")
    assert stopped.contreed("audit", "verify").stdout.endswith("all right\n")


def test_an_operation_is_proven_to_an_outsider(stopped: Stopped, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.json"
    stopped.contreed("audit", "prove", stopped.operation_id, "--output", bundle)
    key = stopped.contreed("audit", "key").stdout.strip()
    done = check(bundle, "--key", key)
    assert done.returncode == 0
    assert f"proven: operation {stopped.operation_id} and its image " in done.stdout
    assert "contree.operation.succeeded" in done.stdout
    assert "came with the file itself" not in done.stdout
    assert "came with the file itself" in check(bundle).stdout
    refused(check(bundle, "--key", str(SeededSigner().key)), "not a key that was given")
    refused(check(bundle, "--key", "x"), "key: 'x' is not NAME")
    document = json.loads(bundle.read_text())
    document["events"][1]["event"]["topic"] = "contree.operation.succeeded"
    bundle.write_text(json.dumps(document))
    refused(check(bundle), r"events\[1\].*does not lead")
    bundle.write_bytes(b"\xff" * 100)
    refused(check(bundle), "not a bundle")
    refused(check(tmp_path), "cannot read")


@pytest.mark.parametrize(
    ("operation", "said"),
    [("nope", "OPERATION: 'nope' is not a UUID"), (str(Path("0" * 32)), "was not found")],
)
def test_what_is_no_operation_is_refused(stopped: Stopped, operation: str, said: str) -> None:
    refused(stopped.contreed("audit", "prove", operation, check=False), said)


def test_a_run_of_the_log_is_proven(stopped: Stopped, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    said = stopped.contreed("audit", "export", "--after", "50", "--until", "90", file).stdout
    assert said == f"40 events in '{file}'\n"
    assert "proven: events 51 to 90 of the log, with none left out" in check(file).stdout
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:5], *lines[6:]]))
    refused(check(file), "line 41: .*ends before its 40 events do")
    file.write_bytes(
        b"".join([*lines[:5], lines[5].replace(b'"version":', b'"version":1'), *lines[6:]])
    )
    refused(check(file), "do not lead to the root")


@pytest.mark.parametrize(
    ("range_", "said"),
    [
        (("--after", "5", "--until", "5"), "after: give 0 <= after < until"),
        (("--after", "99999"), "no signed event beyond position 99999"),
        (("--until", str(2**70)), "until: give a position below"),
    ],
)
def test_a_range_without_events_is_refused_and_leaves_no_file(
    stopped: Stopped, tmp_path: Path, range_: tuple[str, ...], said: str
) -> None:
    refused(stopped.contreed("audit", "export", *range_, tmp_path / "run", check=False), said)
    assert list(tmp_path.iterdir()) == []


def test_the_log_is_proven_to_go_on_from_a_checkpoint(stopped: Stopped, tmp_path: Path) -> None:
    file, copy = tmp_path / "goes-on.json", tmp_path / "kept"
    asyncio.run(stopped.sign_more())
    first, *_, last = stopped.checkpoints
    stopped.contreed("audit", "consistency", "--from", str(first), "--output", file)
    key = stopped.contreed("audit", "key").stdout.strip()
    done = check(file, "--key", key)
    said = f"proven: events 1 to {first} of the log are still those of the checkpoint over {first}"
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout
    assert f" of {last} events, signed " in done.stdout
    # A copy that an outsider kept is as good as the size, and needs nothing of our store.
    shutil.copy(stopped.checkpoints[first], copy)
    command = ("audit", "consistency", "--from", copy, "--to", str(last))
    assert stopped.contreed(*command).stdout == file.read_text()
    file.write_bytes(file.read_bytes()[:-20])
    refused(check(file), "is not whole")
    refused(
        stopped.contreed("audit", "consistency", "--from", str(last), "--to", copy, check=False),
        f"from: covers {last} events, to {first}: give 0 < from <= to",
    )
    copy.write_text(copy.read_text().replace(f"\n{first}\n", f"\n{first + 1}\n"))
    refused(stopped.contreed(*command, check=False), "from: .*the signature of .* is wrong")


@pytest.mark.parametrize(
    ("from_", "said"),
    [
        ("7", r"from: no checkpoint over 7 events is stored; there are, nearest: \d+"),
        ("nowhere/checkpoint", "from: 'nowhere/checkpoint' is neither a number of events nor"),
    ],
)
def test_what_is_no_checkpoint_is_refused(stopped: Stopped, from_: str, said: str) -> None:
    done = stopped.contreed("audit", "consistency", "--from", from_, check=False)
    assert done.returncode != 0
    assert re.search(said, done.stderr), done.stderr
    assert done.stdout == ""


def test_an_empty_log_is_neither_right_nor_wrong() -> None:
    new = RunningServer(Path(tempfile.mkdtemp(prefix="contree-test-")))

    async def make() -> None:
        async with bootstrap.database(Settings(data_dir=new.data_dir)):
            pass

    try:
        asyncio.run(make())
        done = new.contreed("audit", "verify", check=False)
        assert done.stdout == "the log is empty: there is nothing to verify\n"
        assert (done.returncode, done.stderr) == (3, "")
        refused(new.contreed("audit", "key", check=False), "no signing key")
    finally:
        new.remove()


async def test_a_database_that_nothing_was_installed_in_is_refused(
    empty_postgres_dsn: str, tmp_path: Path
) -> None:
    place = RunningServer(tmp_path)
    command = ("audit", "verify", "--dsn", empty_postgres_dsn)
    done = await asyncio.to_thread(place.contreed, *command, check=False)
    refused(done, "no installation in the database of database_url", status=3)


def test_beside_a_running_database_and_after_a_rebuild(stopped: Stopped) -> None:
    said = stopped.contreed("audit", "rebuild").stdout
    assert said == f"made the tree over {stopped.event_count} events again\n"

    async def beside() -> list[str]:
        async with bootstrap.database(Settings(data_dir=stopped.data_dir)):
            commands = (("verify",), ("prove", stopped.operation_id))
            return [
                (await asyncio.to_thread(stopped.contreed, "audit", *command)).stdout
                for command in commands
            ]

    verdict, bundle = asyncio.run(beside())
    assert verdict.endswith("all right\n")
    assert json.loads(bundle)["operation"] == stopped.operation_id
