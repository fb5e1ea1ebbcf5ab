"""What does a question about the past cost at a million events, beside the same one about now?

Both go through the API of one server. The past is asked for at random positions, and each look is
recorded in the log before it is answered: that append is part of the time.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg

from bench._big_log import EVENTS_PER_OPERATION, BigLog, load
from bench._http_client import Connection, request_bytes
from bench._measure import Report, Target, progress
from contree.domain.project import project_id_of
from tests.support.server import RunningServer, running_server

PROJECT = "bench"
PERMISSIONS = "list,audit,spawn"
OPERATIONS = 200_000
ROUNDS = 5
REQUESTS = 60
POLL_S = 0.2
NOW = "the same request without as_of"
LIVE_MS_MAX = 10


def main() -> None:
    report = Report("as_of", __doc__.splitlines()[0])
    with report.running(), running_server() as server:
        token = server.token(PROJECT, permissions=PERMISSIONS)
        began = datetime.now(UTC) - timedelta(days=1)
        log = BigLog(project_id=project_id_of(PROJECT), operation_count=OPERATIONS, began=began)
        progress("loading")
        count = asyncio.run(load(server.dsn(), log))
        progress("rebuilding the read models")
        server.contreed("projections", "rebuild")
        report.add(
            "fold of the audit index, from the beginning",
            "events/s",
            [asyncio.run(_fold_rate(server.dsn()))],
            targets=(Target(of="ours", at_least=30_000),),
        )
        _compare(report, server, token, log, count)
        report.note(f"{count:,} events, {OPERATIONS:,} operations and images in one project")


async def _fold_rate(dsn: str) -> float:
    """Wait until the worker has folded the whole log; return events a second."""
    connection = await asyncpg.connect(dsn)
    try:
        head = await connection.fetchval("SELECT max(notification_id) FROM stored_events")
        samples: list[tuple[float, int]] = []
        while not samples or samples[-1][1] < head:
            position = await connection.fetchval("SELECT position FROM audit.follower")
            samples.append((time.monotonic(), position))
            progress(f"folding the audit index, {position:,} of {head:,}")
            await asyncio.sleep(POLL_S)
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    moving = [sample for sample in samples if sample[1] > samples[0][1]] or samples
    (from_s, first), (to_s, last) = moving[0], moving[-1]
    return (last - first) / max(to_s - from_s, POLL_S)


def _compare(report: Report, server: RunningServer, token: str, log: BigLog, count: int) -> None:
    choose = random.Random(1)
    port = urlsplit(server.url).port
    assert port is not None
    headers = {"Authorization": f"Bearer {token}"}
    with Connection(port) as end:

        def asked(path: str) -> float:
            request = request_bytes(path, headers)
            began = time.perf_counter()
            end.get(request)
            return (time.perf_counter() - began) * 1000

        def past() -> str:
            """A position at which the operation of `number` below has ended."""
            return f"as_of=@{choose.randrange(count // 2, count)}"

        def operation() -> str:
            number = choose.randrange(OPERATIONS // 3)
            return f"/v1/operations/{log.operation_id(number)}"

        def alive() -> tuple[str, str]:
            """An operation, and a position in the middle of its life."""
            number = choose.randrange(OPERATIONS)
            position = number * EVENTS_PER_OPERATION + number // 100 + 5
            return f"/v1/operations/{log.operation_id(number)}", f"as_of=@{position}"

        questions = {
            "GET operation": lambda: (operation(), past()),
            "- that was alive then": alive,
            "list operations, 100": lambda: ("/v1/operations?limit=100", past()),
            "- with status=SUCCESS": lambda: ("/v1/operations?limit=100&status=SUCCESS", past()),
            "- with status=EXECUTING": lambda: ("/v1/operations?status=EXECUTING", past()),
            "list images, 100": lambda: ("/v1/images?limit=100", past()),
            "- by tag": lambda: ("/v1/images?tag=latest", past()),
        }
        for what, question in questions.items():
            samples: dict[str, list[float]] = {"then": [], "now": []}
            for number in range(ROUNDS + 1):
                progress(f"{what}, {number}/{ROUNDS}")
                for _ in range(REQUESTS):
                    path, as_of = question()
                    joined = f"{path}{'&' if '?' in path else '?'}{as_of}"
                    took = {"then": asked(joined), "now": asked(path)}
                    if number:  # the first is for connections and plans
                        for side, ms in took.items():
                            samples[side].append(ms)
            targets = () if what.startswith("-") else (Target(of="ours", at_most=LIVE_MS_MAX),)
            report.add(
                what, "ms", samples["then"], samples["now"], reference_name=NOW, targets=targets
            )


if __name__ == "__main__":
    main()
