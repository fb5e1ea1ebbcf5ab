"""`contreed worker`: one worker, alone or beside `serve`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from contree import bootstrap
from contree.cli.supervision import (
    READY,
    STOPPING,
    stop_on_signals,
    tell_status,
    tell_supervisor,
)
from contree.config import Settings
from contree.domain.errors import InvalidFieldError
from contree.worker.loop import Worker

FROM_STDIN = "-"
"""As database URL: it is the first line of standard input, which may come late."""

log = logging.getLogger(__name__)


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    worker = commands.add_parser(
        "worker",
        parents=[common],
        epilog="With --database-url - the URL is read from standard input.",
    )
    add_worker_options(worker)
    worker.add_argument(
        "--metrics-listen", metavar="HOST:PORT", help="of GET /metrics; default: none"
    )
    worker.set_defaults(command=_worker)


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--libvirt-uri", metavar="URI", help="default: QEMU embedded here")
    parser.add_argument("--accelerator", metavar="NAME", help="auto, kvm or tcg")
    parser.add_argument("--instances-here", metavar="N", help="most runs at once")
    parser.add_argument("--worker-name", metavar="NAME", help="default: the host's name")


async def _worker(settings: Settings, _: argparse.Namespace) -> None:
    stop = stop_on_signals()
    log.debug("to answer scrapes on %s", settings.metrics_address)  # raises before all else
    if settings.database_url is None:
        bootstrap.running_database(settings)  # raises: only `serve` starts one
    bootstrap.private_data_dir(settings)
    if not await bootstrap.programs_there(tell_status, unless=stop.asked):
        return
    async with bootstrap.microvm(settings) as machines:
        if settings.database_url == FROM_STDIN:
            url = await _first_line(unless=stop.asked)
            if url is None:
                return
            settings = msgspec.structs.replace(settings, database_url=url)
        async with (
            bootstrap.database(settings) as database,
            bootstrap.core(settings, database, make_keys=True) as core,
            bootstrap.worker(core, machines, told=tell_status) as worker,
            _measured(core, worker, machines),
        ):
            log.info("worker %s is ready", settings.worker_name)
            await worker.run(
                stop.asked, at_once=stop.at_once, on_ready=partial(tell_supervisor, READY)
            )
            tell_supervisor(STOPPING)


@asynccontextmanager
async def _measured(
    core: bootstrap.Core, worker: Worker, machines: bootstrap.Machines
) -> AsyncIterator[None]:
    """Answer scrapes, if `metrics_listen` is set, until the end of the context."""
    address = core.settings.metrics_address
    if address is None:
        yield
        return
    # Only here: other workers have no web server.
    from contree.bootstrap.metrics import worker_metrics
    from contree.http.server import serve_metrics

    async with serve_metrics(worker_metrics(core, worker, machines), *address) as url:
        log.info("metrics of worker %s are at %s", core.settings.worker_name, url)
        yield


async def _first_line(*, unless: asyncio.Event) -> str | None:
    """Return the first line of a pipe that is standard input, None if `unless` is set before.

    Raises InvalidFieldError when there is none.
    """
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):  # what an event loop can wait for
        raise InvalidFieldError("database_url", "- needs a pipe as standard input")
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    line = asyncio.create_task(reader.readline())
    stopped = asyncio.create_task(unless.wait())
    try:
        await asyncio.wait({line, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            return None
        url = line.result().decode().strip()
    finally:
        line.cancel()
        stopped.cancel()
        transport.close()
    if not url:
        raise InvalidFieldError("database_url", "standard input ended before a line with it")
    return url
