"""How fast is a whole log checked, against only reading its rows and taking their SHA-256?

The log is made in the database, through the table's own triggers; its tree and a few checkpoints by
the duty that makes them. The reference fetches the same rows by COPY and hashes them once each.

The rows below are the commands as they are typed: the most memory that each has at a time, beside
the same on the log's last tenth.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from bench._measure import Report, Target, progress
from bench._memory_of import KIB_A_MIB
from contree import projections
from contree.adapters.postgres.embedded import EmbeddedPostgres
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.log_rows import PostgresLogRows
from contree.adapters.postgres.migrate import migrate
from contree.adapters.postgres.pool import open_pool
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.adapters.system.clock import SystemClock
from contree.bootstrap import proof as proofs
from contree.config import Settings

ROWS = 1_000_000
PART_ROWS = 100_000
ROUNDS = 5
REFERENCE = "read the same rows (COPY), SHA-256 of each once"

# Not of wait4(2): that counts what the parent had when it forked.
TELL_PEAK = """
import atexit, pathlib, sys
from contree.__main__ import main

def tell():
    _, _, rest = pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")
    print(rest.split()[0], file=sys.stderr)

atexit.register(tell)
sys.exit(main())
"""

APPEND = """
    INSERT INTO public.stored_events (originator_id, originator_version, topic, state)
    SELECT md5((n / 5)::text)::uuid, n % 5 + 1, 'contree.operation.started',
        convert_to(format(
            '{"actor":"worker:bench","project_id":{"_type_":"uuid_hex","_data_":"%s"},'
            '"request_id":"request-%s","accelerator":"tcg","network":null,'
            '"timestamp":{"_type_":"datetime_iso","_data_":"2026-01-02T03:04:05.678901+00:00"}}',
            md5('project'), n), 'UTF8')
    FROM generate_series($1::bigint, $2::bigint - 1) AS n
"""


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    report = Report("verify", __doc__.splitlines()[0])
    with report.running(), tempfile.TemporaryDirectory(prefix="bench-") as directory:
        asyncio.run(_measure(report, Path(directory), rows))
        report.note(f"a log of {rows:,} events; each verification reads all of it")


async def _measure(report: Report, directory: Path, rows: int) -> None:
    server = EmbeddedPostgres(directory / "data", directory / "run")
    await server.start()
    try:
        await migrate(server.dsn, projections=projections.ALL)
        settings = Settings(data_dir=directory / "data")
        listener = PostgresListener(server.dsn)
        pool = await open_pool(server.dsn)
        async with (
            pool,
            proofs.open_proof(
                settings,
                pool,
                recorded=PostgresRecordedLog(pool, listener),
                clock=SystemClock(),
            ) as proof,
        ):
            await _compare(report, server.dsn, proof, PostgresLogRows(pool), rows)
        await listener.aclose()
    finally:
        await server.stop()


async def _compare(
    report: Report,
    dsn: str,
    proof: proofs.Proof,
    log_rows: PostgresLogRows,
    rows: int,
) -> None:
    built: list[float] = []
    checkpoints = proof.checkpoints(make_key=True)
    owner = await asyncpg.connect(dsn)
    for start in range(0, rows, PART_ROWS):
        progress(f"append {start:,}")
        await owner.execute(APPEND, start, min(start + PART_ROWS, rows))
        began = time.monotonic()
        await checkpoints.advance()
        built.append(min(PART_ROWS, rows - start) / (time.monotonic() - began))
    await owner.execute("VACUUM ANALYZE public.stored_events")
    await owner.close()
    key = proofs.note_signer(proof.settings, make=False).key
    until = await proof.recorded.head()

    async def verify() -> None:
        verdict = await proof.verify([key]).run()
        if verdict.findings or verdict.row_count != rows or verdict.covered != rows:
            raise SystemExit(f"the log does not verify: {verdict}")

    async def read() -> None:
        count = 0
        async for batch in log_rows.stream(after=0, until=until):
            for row, _ in batch:
                hashlib.sha256(row).digest()
            count += len(batch)
        if count != rows:
            raise SystemExit(f"read {count} rows of {rows}")

    rates: dict[str, list[float]] = {"verify": [], "read": []}
    for number in range(ROUNDS + 1):
        for name, work in (("verify", verify), ("read", read)):
            progress(f"{name} {number}/{ROUNDS}")
            began = time.monotonic()
            await work()
            if number:  # the first fills the database's cache
                rates[name].append(rows / (time.monotonic() - began))
    report.add(
        "verify the whole log",
        "rows/s",
        rates["verify"],
        rates["read"],
        reference_name=REFERENCE,
        targets=(Target(of="ours", at_least=200_000),),
    )
    report.add("grow the tree and sign", "rows/s", built)
    data_dir = proof.settings.data_dir
    stored = ("--data-dir", str(data_dir), "--dsn", dsn)
    await asyncio.to_thread(_memory, report, data_dir, stored, tenth=until - rows // 10)


def _memory(report: Report, directory: Path, stored: Sequence[str], *, tenth: int) -> None:
    """Run the commands on all of the log, and on what is beyond position `tenth`."""
    all_, part = directory / "all.jsonl", directory / "part.jsonl"
    commands = {
        "verify": (("verify", *stored), ("verify", *stored, "--after", str(tenth))),
        "export": (
            ("export", *stored, str(all_)),
            ("export", *stored, "--after", str(tenth), str(part)),
        ),
        "check": (("check", str(all_)), ("check", str(part))),
    }
    for name, sides in commands.items():
        progress(f"memory of {name}")
        ours, reference = (_peak_mib("audit", *arguments) for arguments in sides)
        report.add(
            f"memory of `audit {name}`",
            "MiB",
            [ours],
            [reference],
            reference_name="on the log's last tenth",
            targets=(Target(of="ratio", at_most=1.1),),
        )


def _peak_mib(*arguments: str) -> float:
    """The most memory that `contreed` with these arguments had resident."""
    done = subprocess.run(
        [sys.executable, "-c", TELL_PEAK, *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"contreed {' '.join(arguments)} failed: {done.stderr}")
    return int(done.stderr.splitlines()[-1]) / KIB_A_MIB


if __name__ == "__main__":
    main()
