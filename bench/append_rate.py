"""How many events a second does the log take, beside plain INSERTs under the same lock?

Ours: the service's own adapter, read models, chain, NOTIFY and all, one event an append. The
reference: the same bytes into a table of the same columns and keys, on the same server, through a
pool of the same size, with nothing but the lock that puts ids into commit order. Ours shares
commits between writers (ADR 11), the reference does not; a row tells what it would gain by that.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid5

import asyncpg

from bench._measure import Report, Target, progress
from contree import projections
from contree.adapters.postgres.embedded import EmbeddedPostgres
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.group_commit import GroupCommit
from contree.adapters.postgres.migrate import migrate
from contree.adapters.postgres.pool import open_pool
from contree.adapters.postgres.transcoder import event_mapper
from contree.domain.context import Context
from contree.domain.instance import InstanceSpec
from contree.domain.operation import Operation
from contree.domain.project import NAMESPACE

WRITERS = (1, 8, 32)
ROUNDS = 5
ROUND_APPENDS = 1500
PLAIN = "INSERT under the same lock, no read model, chain or NOTIFY"
PLAIN_TABLES = """
CREATE TABLE public.plain_events (
    originator_id uuid NOT NULL, originator_version bigint NOT NULL, topic text NOT NULL,
    state bytea NOT NULL, notification_id bigint GENERATED ALWAYS AS IDENTITY,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (originator_id, originator_version)
);
CREATE UNIQUE INDEX ON public.plain_events (notification_id);
CREATE TABLE public.noted_events (LIKE public.plain_events INCLUDING ALL);
CREATE FUNCTION public.plain_lock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(TG_RELID::bigint); RETURN NULL; END $$;
CREATE FUNCTION public.plain_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_notify('plain_events', ''); RETURN NULL; END $$;
CREATE TRIGGER a_lock BEFORE INSERT ON public.plain_events
    FOR EACH STATEMENT EXECUTE FUNCTION public.plain_lock();
CREATE TRIGGER a_lock BEFORE INSERT ON public.noted_events
    FOR EACH STATEMENT EXECUTE FUNCTION public.plain_lock();
CREATE TRIGGER c_notify AFTER INSERT ON public.noted_events
    FOR EACH STATEMENT EXECUTE FUNCTION public.plain_notify();
GRANT INSERT ON public.plain_events, public.noted_events TO contree_app;
"""
PLAIN_INSERT = (
    "INSERT INTO public.{} (originator_id, originator_version, topic, state) "
    "VALUES ($1, $2, $3, $4)"
)

Write = Callable[[Operation], Awaitable[None]]


def main() -> None:
    report = Report("append_rate", __doc__.splitlines()[0])
    with report.running(), tempfile.TemporaryDirectory(prefix="bench-") as directory:
        asyncio.run(_measure(report, Path(directory)))
        report.note("an append is one request of a run; its event is made before the clock starts")


async def _measure(report: Report, directory: Path) -> None:
    server = EmbeddedPostgres(directory / "data", directory / "run")
    await server.start()
    try:
        await migrate(server.dsn, projections=projections.ALL)
        owner = await asyncpg.connect(server.dsn)
        await owner.execute(PLAIN_TABLES)
        await owner.close()
        pool = await open_pool(server.dsn)
        async with pool:
            await _compare(report, pool)
    finally:
        await server.stop()


async def _compare(report: Report, pool: asyncpg.Pool) -> None:
    mapper = event_mapper()
    with_all = PostgresEventLog(pool, projections.ALL)
    without = PostgresEventLog(pool, ())

    def inserting(table: str, commits: GroupCommit | None = None) -> Write:
        statement = PLAIN_INSERT.format(table)

        async def insert(operation: Operation) -> None:
            (event,) = operation.collect_events()
            stored = mapper.to_stored_event(event)
            row = (stored.originator_id, stored.originator_version, stored.topic, stored.state)
            if commits is None:
                await pool.execute(statement, *row)
            else:
                await commits.execute(statement, row)

        return insert

    sides: dict[str, Write] = {
        "log": with_all.append,
        "chain": without.append,
        "noted": inserting("noted_events"),
        "shared": inserting("plain_events", GroupCommit(pool)),
        "plain": inserting("plain_events"),
    }
    requests = _requests()
    for writers in WRITERS:
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(ROUNDS + 1):
            progress(f"{writers} writers, {number}/{ROUNDS}")
            for name, write in sides.items():
                rate = await _rate(write, requests, writers)
                if number:  # the first is for connections and prepared statements
                    rates[name].append(rate)
        report.add(
            f"append, {writers} writer{'s' if writers > 1 else ''}",
            "events/s",
            rates["log"],
            rates["plain"],
            reference_name=PLAIN,
            targets=(Target(of="ratio", at_least=0.9),),
        )
        details = {
            "- without read models": "chain",
            "- plain INSERT with NOTIFY": "noted",
            "- plain INSERT, sharing commits as ours does": "shared",
        }
        for what, name in details.items():
            report.add(what, "events/s", rates[name], rates["plain"], reference_name=PLAIN)


def _requests() -> Iterator[Operation]:
    """Yield new operations, each with the one event of being requested pending."""
    spec = InstanceSpec(image_id=uuid5(NAMESPACE, "image"), command="true", timeout_s=30)
    for number in itertools.count():
        context = Context(
            actor="bench",
            project_id=uuid5(NAMESPACE, "project"),
            request_id=f"request-{number}",
            at=datetime.now(UTC),
        )
        id_ = UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128)  # spread over the key
        yield Operation.request_instance(context, operation_id=id_, spec=spec)


async def _rate(write: Write, requests: Iterator[Operation], writers: int) -> float:
    """Return appends per second of so many tasks that always write."""
    waiting = list(itertools.islice(requests, ROUND_APPENDS))

    async def keep_writing() -> None:
        while waiting:
            await write(waiting.pop())

    began = time.monotonic()
    await asyncio.gather(*(keep_writing() for _ in range(writers)))
    return ROUND_APPENDS / (time.monotonic() - began)


if __name__ == "__main__":
    main()
