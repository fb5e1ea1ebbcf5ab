"""`contreed status`: how the deployment is, as far as this host knows."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from collections import Counter
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from typing import Any

from contree import bootstrap
from contree.cli.output import add_json, show_record
from contree.config import Settings
from contree.domain.errors import UnavailableError
from contree.domain.operation import Status

ANSWER_S = 5.0
COUNTED = timedelta(hours=24)


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    status = commands.add_parser(
        "status",
        parents=[common],
        description="Exit status: 0 the server is ready, 1 it is not.",
    )
    status.add_argument("--listen", metavar="HOST:PORT", help="of the server that is asked")
    add_json(status)
    status.set_defaults(command=_status)


async def _status(settings: Settings, arguments: argparse.Namespace) -> int:
    await bootstrap.require_installation(settings)
    problem = await asyncio.to_thread(_problem, *settings.address)
    record = {
        "version": version("contree"),
        "data_dir": str(settings.data_dir),
        "server": f"http://{settings.listen}",
        "ready": problem is None,
        "problem": problem,
        **await _recorded(settings),
        "disk_free_gib": round(shutil.disk_usage(settings.data_dir).free / 1024**3, 1),
    }
    show_record(record, as_json=arguments.json)
    return int(problem is not None)


def _problem(host: str, port: int) -> str | None:
    """Why the server there is not ready, None when it is."""
    connection = HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = json.loads(answer.read())
    except (OSError, HTTPException, ValueError) as error:
        return f"no answer: {error}"
    finally:
        connection.close()
    return None if answer.status == 200 else str(body.get("error", answer.reason))  # noqa: PLR2004


async def _recorded(settings: Settings) -> dict[str, Any]:
    """What the database knows of the queue, of workers that have work, and of guests."""
    try:
        urls = bootstrap.running_database(settings)
        async with bootstrap.core(settings, urls) as core:
            answers = await core.database.version()
            under_way = await core.operations.under_way()
            started = await core.history.starts.since(core.clock.now() - COUNTED)
    except UnavailableError as error:
        names = ("queued", "running", "workers_with_work", "guests_in_24_hours")
        return {"database": str(error), **dict.fromkeys(names)}
    guests: Counter[str] = Counter()
    for (_, accelerator), count in started.items():
        guests[accelerator] += count
    queued = sum(one.operations for one in under_way if one.status is Status.PENDING)
    return {
        "database": answers,
        "queued": queued,
        "running": sum(one.operations for one in under_way) - queued,
        "workers_with_work": sorted({one.worker for one in under_way if one.worker}),
        "guests_in_24_hours": [f"{guests[name]} under {name}" for name in sorted(guests)],
    }
