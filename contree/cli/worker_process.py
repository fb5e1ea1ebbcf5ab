"""The worker beside `serve`: a process of its own, so that its work never blocks the API.

    getting ready (imports, libvirt, template) --at_work: it is told the database--> at work
    at work --dies--> started again        any --end of the context, or of us--> ended
    end of the context: what it runs may go on for `drain_timeout`, or until `at_once` is set

Ended with us also when we are killed (PR_SET_PDEATHSIG): what it held goes back into the queue at
the next start, and its guests are swept then.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

import msgspec

from contree import bootstrap
from contree.bootstrap import DatabaseUrls
from contree.cli.supervision import Readiness
from contree.cli.worker import FROM_STDIN
from contree.config import Settings, worker_environment
from contree.domain.errors import UnavailableError

RESTART_DELAY_S = 1.0
STOP_S = 30.0
"""How long a worker takes to end once nothing runs any more."""

PR_SET_PDEATHSIG = 1  # prctl(2)

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)


class WorkerProcess:
    """An async context manager that keeps one worker process running."""

    def __init__(self, settings: Settings, *, at_once: asyncio.Event) -> None:
        # Whoever starts it has migrated: a worker never acts as the owner.
        self._settings = msgspec.structs.replace(
            settings,
            database_url=FROM_STDIN,
            database_owner_url=None,
            metrics_listen=settings.worker_metrics_listen,
            worker_metrics_listen=None,
        )
        self._at_once = at_once
        self._stack = AsyncExitStack()
        self._process: asyncio.subprocess.Process | None = None
        self._heard: Readiness

    @property
    def is_ready(self) -> bool:
        """Whether a worker has been ready; one that died since is being started again."""
        return self._heard.told.is_set()

    @property
    def problem(self) -> str | None:
        """Why runs do not get on just now, None when nothing is known to be wrong."""
        if self._heard.problem:
            return f"the worker takes on nothing: {self._heard.problem}"
        return None if self.is_ready else "the worker is not ready yet"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            sockets = stack.enter_context(bootstrap.runtime_dir(self._settings))
            self._heard = await stack.enter_async_context(Readiness(sockets / "worker"))
            self._process = await self._start()
            stack.push_async_callback(self._stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def at_work(self, database: DatabaseUrls) -> AsyncIterator[None]:
        """Let it work on `database`, and start it again whenever it dies, until the end."""
        keeper = asyncio.create_task(self._keep(database))
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await self._stop()

    async def started(self, *, unless: asyncio.Event) -> None:
        """Wait until it is ready, or `unless` is set.

        Raises UnavailableError when it ends before: what is wrong would be wrong the next time.
        """
        assert self._process is not None
        waits = [
            asyncio.create_task(wait)
            for wait in (self._heard.told.wait(), unless.wait(), self._process.wait())
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self.is_ready and not unless.is_set():
            raise UnavailableError(
                f"the worker ended with status {self._process.returncode} before it was ready; "
                "it said why above"
            )

    async def _start(self) -> asyncio.subprocess.Process:
        parent = os.getpid()
        self._heard.problem = ""  # what an earlier one lacked

        def die_with_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before we asked
                os._exit(1)

        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "contree",
            "worker",
            env=worker_environment(self._settings, supervisor=self._heard.path),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
            preexec_fn=die_with_parent,
        )

    async def _keep(self, database: DatabaseUrls) -> None:
        while True:
            if self._process is not None:
                await self._tell(self._process, database)
                status = await self._process.wait()
                if not self.is_ready:
                    return  # `started` says so: it would end the same way again
                log.error("the worker ended with status %d, starting it again", status)
            await asyncio.sleep(RESTART_DELAY_S)
            self._process = await self._start()

    async def _tell(self, process: asyncio.subprocess.Process, database: DatabaseUrls) -> None:
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it died; `wait` says so
            process.stdin.write(database.app.encode() + b"\n")
            await process.stdin.drain()
            process.stdin.close()

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        ended = asyncio.create_task(process.wait())
        hurry = asyncio.create_task(self._at_once.wait())
        drain_s = self._settings.drain_timeout + STOP_S
        await asyncio.wait({ended, hurry}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done() and process.returncode is None:
            process.send_signal(signal.SIGTERM)
        hurry.cancel()
        if not (await asyncio.wait({ended}, timeout=STOP_S))[0]:
            log.warning("the worker does not stop, killing it")
            process.kill()
            await ended
