"""`contreed serve` and `api`: what listens for clients."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from contree import bootstrap
from contree.app.services import Services
from contree.cli.supervision import READY, STOPPING, Stop, stop_on_signals, tell_supervisor
from contree.cli.worker import add_worker_options
from contree.cli.worker_process import WorkerProcess
from contree.config import Settings
from contree.domain.errors import UnavailableError

FILES_MAX = 65_536
"""Files open at once, as far as the system allows: every follower of events is one."""

log = logging.getLogger(__name__)

WELCOME = """\
Contree is listening on {url}

First steps, in another terminal, with the published client (pip install contree-cli):
  TOKEN=$({contreed} token create --data-dir {data_dir} --project demo)
  contree auth --type jwt --url {url} --token "$TOKEN"
  contree images import docker://docker.io/library/busybox:latest
  eval "$(contree use tag:busybox:latest)"
  contree run -s -- 'uname -sr; echo hello >/greeting'
  contree cat /greeting

From Python, as who signed in there (pip install contree-sdk):
  from contree_sdk import ContreeSync
  from contree_sdk.auth import JWTAuth
  from contree_sdk.config import ContreeConfig
  contree = ContreeSync(ContreeConfig(auth=JWTAuth()))
  image = contree.images.use("busybox:latest")
  print(image.run(shell="echo hello").wait().stdout)
"""


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    serve = commands.add_parser(
        "serve",
        parents=[common],
    )
    api = commands.add_parser(
        "api",
        parents=[common],
    )
    for parser in (serve, api):
        parser.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:8080")
        parser.add_argument(
            "--metrics-listen",
            metavar="HOST:PORT",
            help="of GET /metrics; default: none",
        )
    add_worker_options(serve)
    serve.add_argument(
        "--worker-metrics-listen",
        metavar="HOST:PORT",
        help="the same of the worker; default: none",
    )
    serve.set_defaults(command=_serve)
    api.set_defaults(command=_api)


async def _serve(settings: Settings, _: argparse.Namespace) -> None:
    stop = _prepared(settings)
    async with (
        bootstrap.owned_data_dir(settings),
        WorkerProcess(
            settings, at_once=stop.at_once
        ) as worker,  # it gets ready while the database does
        bootstrap.database(settings) as database,
        bootstrap.core(settings, database, make_keys=True) as core,
        _served(core, beside=worker) as url,
        worker.at_work(database),
    ):
        log.info("listening on %s", url)
        if not await core.tokens.list():  # nobody has taken the first step yet
            sys.stderr.write(f"\n{_welcome(url, settings)}\n")
        await worker.started(unless=stop.asked)
        await _until(stop.asked)


async def _api(settings: Settings, _: argparse.Namespace) -> None:
    stop = _prepared(settings)
    if settings.database_url is None:
        bootstrap.running_database(settings)  # raises: only `serve` starts one
    bootstrap.private_data_dir(settings)
    async with (
        bootstrap.database(settings) as database,
        bootstrap.core(settings, database, make_keys=True) as core,
        _served(core) as url,
    ):
        log.info("listening on %s", url)
        await _until(stop.asked)


def _welcome(url: str, settings: Settings) -> str:
    """What to type first, as it can be typed in any directory."""
    program = Path(sys.argv[0]).absolute()
    contreed = [sys.executable, "-m", "contree"] if program.suffix == ".py" else [str(program)]
    data_dir = shlex.quote(str(settings.data_dir))
    return WELCOME.format(url=url, contreed=shlex.join(contreed), data_dir=data_dir)


def _prepared(settings: Settings) -> Stop:
    """Return what signals set. Raises InvalidFieldError before anything has been started."""
    stop = stop_on_signals()
    for address in (
        settings.address,
        settings.metrics_address,
        settings.worker_metrics_address,
    ):
        log.debug("to listen on %s", address)
    _allow_many_files()
    return stop


@asynccontextmanager
async def _served(
    core: bootstrap.Core, *, beside: WorkerProcess | None = None
) -> AsyncIterator[str]:
    """Answer API requests, and scrapes if `metrics_listen` is set; yield the API's URL."""
    # Imported only here: the worker of `serve` has begun its own imports by now.
    from contree.http.server import serve_api, serve_metrics

    settings, meter = core.settings, None
    services = bootstrap.services(core)
    if beside is not None:
        services = _ready_with(services, beside)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bootstrap.host_duties(core))
        if (address := settings.metrics_address) is not None:
            from contree.bootstrap.metrics import measured

            meter = await stack.enter_async_context(measured(core))
            metrics_url = await stack.enter_async_context(serve_metrics(meter, *address))
            log.info("metrics are at %s", metrics_url)
        yield await stack.enter_async_context(serve_api(services, *settings.address, meter=meter))


async def _until(stop: asyncio.Event) -> None:
    if not stop.is_set():
        tell_supervisor(READY)
    await stop.wait()
    tell_supervisor(STOPPING)
    log.info("stopping")


def _ready_with(services: Services, worker: WorkerProcess) -> Services:
    """The same services, ready only while the worker beside them can work."""

    async def ready() -> None:
        await services.ready()
        if worker.problem is not None:
            raise UnavailableError(worker.problem)

    return replace(services, ready=ready)


def _allow_many_files() -> None:
    """Most systems start processes with 1,024, and let them have more for the asking."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
