"""The worker beside `serve`: a process of its own, so that its work never blocks the API.

Restarted when it dies; ended with us, also when we are killed (PR_SET_PDEATHSIG): what it held goes
back into the queue at the next start, and its guests are swept then.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from typing import Self

import msgspec

from contree.bootstrap import DatabaseUrls
from contree.config import Settings, worker_environment

RESTART_DELAY_S = 1.0
STOP_S = 30.0
PR_SET_PDEATHSIG = 1  # prctl(2)

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)


class WorkerProcess:
    """An async context manager that keeps one worker process running."""

    def __init__(self, settings: Settings, database: DatabaseUrls) -> None:
        # Whoever starts it has migrated: a worker never acts as the owner.
        self._settings = msgspec.structs.replace(
            settings, database_url=database.app, database_owner_url=None
        )
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await self._start()
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            log.warning("the worker did not stop within %.0f s, killing it", STOP_S)
            process.kill()
            await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before we asked
                os._exit(1)

        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "contree",
            "worker",
            env=worker_environment(self._settings),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
            preexec_fn=die_with_parent,
        )

    async def _keep(self) -> None:
        while True:
            if self._process is not None:
                status = await self._process.wait()
                log.error("the worker ended with status %d, starting it again", status)
            await asyncio.sleep(RESTART_DELAY_S)
            self._process = await self._start()
