"""`contreed serve`, `api` and `worker`: the long-running commands."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from contree import bootstrap
from contree.cli.worker_process import WorkerProcess
from contree.config import Settings
from contree.http.server import serve_api, serve_metrics

FILES_MAX = 65_536
"""Files open at once, as far as the system allows: every follower of events is one."""

log = logging.getLogger(__name__)

WELCOME = """\
Contree is listening on {url}

First steps, in another terminal:
  contreed token create --data-dir {data_dir} --project demo      # prints a token
  export CONTREE_URL={url} CONTREE_TOKEN=<token>
  contree images import docker://docker.io/library/busybox:latest # published CLI

From Python (pip install contree-sdk):
  from contree_sdk import ContreeSync
  from contree_sdk.auth import JWTAuth
  from contree_sdk.config import ContreeConfig
  contree = ContreeSync(ContreeConfig(auth=JWTAuth(token="<token>", base_url="{url}")))
"""


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    serve = commands.add_parser(
        "serve", parents=[common], help="API, worker and embedded PostgreSQL on this machine"
    )
    api = commands.add_parser("api", parents=[common], help="the API only; needs a database URL")
    worker = commands.add_parser(
        "worker", parents=[common], help="one worker; needs a database URL"
    )
    for parser in (serve, api):
        parser.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:8080")
        parser.add_argument(
            "--metrics-listen",
            metavar="HOST:PORT",
            help="of GET /metrics; default: none",
        )
    for parser in (serve, worker):
        parser.add_argument("--libvirt-uri", metavar="URI", help="default: QEMU embedded here")
        parser.add_argument("--accelerator", metavar="NAME", help="auto, kvm or tcg")
        parser.add_argument("--instances-here", metavar="N", help="most runs at once")
        parser.add_argument("--worker-name", metavar="NAME", help="default: the host's name")
    serve.set_defaults(command=_serve)
    api.set_defaults(command=_api)
    worker.set_defaults(command=_worker)


async def _serve(settings: Settings, _: argparse.Namespace) -> None:
    stop = _stop_on_signals()
    _allow_many_files()
    first_start = not settings.data_dir.exists()
    async with (
        bootstrap.owned_data_dir(settings),
        bootstrap.database(settings) as database,
        bootstrap.core(settings, database) as core,
        _served(core) as url,
        WorkerProcess(settings, database),
    ):
        log.info("listening on %s", url)
        if first_start:
            sys.stderr.write("\n" + WELCOME.format(url=url, data_dir=settings.data_dir) + "\n")
        await stop.wait()
        log.info("stopping")


async def _api(settings: Settings, _: argparse.Namespace) -> None:
    stop = _stop_on_signals()
    _allow_many_files()
    async with (
        bootstrap.database(settings) as database,
        bootstrap.core(settings, database) as core,
        _served(core) as url,
    ):
        log.info("listening on %s", url)
        await stop.wait()


@asynccontextmanager
async def _served(core: bootstrap.Core) -> AsyncIterator[str]:
    """Answer API requests, and scrapes if `metrics_listen` is set; yield the API's URL."""
    settings, meter = core.settings, None
    async with AsyncExitStack() as stack:
        if (address := settings.metrics_address) is not None:
            meter = await stack.enter_async_context(bootstrap.measured(core))
            metrics_url = await stack.enter_async_context(serve_metrics(meter, *address))
            log.info("metrics are at %s", metrics_url)
        services = bootstrap.services(core)
        yield await stack.enter_async_context(serve_api(services, *settings.address, meter=meter))


async def _worker(settings: Settings, _: argparse.Namespace) -> None:
    stop = _stop_on_signals()
    async with (
        bootstrap.database(settings) as database,
        bootstrap.core(settings, database) as core,
        bootstrap.worker(core) as worker,
    ):
        log.info("worker %s is ready", settings.worker_name)
        await worker.run(stop)


def _allow_many_files() -> None:
    """Most systems start processes with 1,024, and let them have more for the asking."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop
