"""Keeps a template ready: opened or built at the first need, given up and built again on failure.

    absent --prepare--> making --> ready --too many clones fail in a row--> absent
    making --fails--> absent, and prepared again not before a while

Whoever starts a guest asks `current`; the first making is waited for, later ones are not: the
guest boots cold meanwhile. It never raises: without a template guests boot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from contree.adapters.microvm.templates.template import Template, TemplateStore
from contree.domain.errors import ContreeError, GuestFailure

CLONE_FAILURES_MAX = 3
"""In a row; then the template is taken to be bad."""

RETRY_FIRST_S = 60.0
RETRY_MAX_S = 3600.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class TemplateCounts:
    """Since the start of this process.

    built, loaded   templates made, and opened from an earlier start
    clones          guests that were restored
    fallbacks       guests that were booted because restoring them failed
    discarded       templates given up because clones kept failing
    """

    built: int = 0
    loaded: int = 0
    clones: int = 0
    fallbacks: int = 0
    discarded: int = 0


class TemplateKeeper:
    """One template of `store`.

    kernel  what it boots
    build   boots a blank guest whose RAM and state end up in the given directory
    """

    def __init__(
        self, store: TemplateStore, *, kernel: Path, build: Callable[[Path], Awaitable[None]]
    ) -> None:
        self.counts = TemplateCounts()
        self._store = store
        self._kernel = kernel
        self._build = build
        self.problem = ""
        """Why the last template was not made, or its last clone did not come up."""
        self._template: Template | None = None
        self._making: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._tried = False
        self._failures_in_a_row = 0
        self._retry_s = RETRY_FIRST_S
        self._not_before = 0.0  # by the event loop's clock

    def prepare(self) -> None:
        """Begin to make a template, if there is none and its time has come."""
        idle = self._making is None or self._making.done()
        due = asyncio.get_running_loop().time() >= self._not_before
        if self._template is None and idle and due:
            self._making = asyncio.create_task(self._make(), name="template")

    @property
    def at_hand(self) -> Template | None:
        """The template, if it is ready just now."""
        return self._template

    async def looked(self) -> None:
        """Prepare, and wait until one from an earlier start is open; not for one to be built."""
        self.prepare()
        await self._looked.wait()

    async def current(self) -> Template | None:
        """Return the template, None to boot without. Waits only for the first one."""
        self.prepare()
        if not self._tried and self._making is not None:
            await asyncio.wait({self._making})
        return self._template

    def worked(self) -> None:
        """A clone came up."""
        self.counts.clones += 1
        self._failures_in_a_row = 0
        self._retry_s = RETRY_FIRST_S

    async def failed(self, template: Template, failure: GuestFailure) -> None:
        """A clone of `template` did not come up; its guest is booted instead."""
        self.counts.fallbacks += 1
        self.problem = str(failure)
        log.warning(
            "restoring a guest failed, it boots instead (%d so far): %s",
            self.counts.fallbacks,
            failure,
        )
        if template is not self._template:
            return  # given up already
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= CLONE_FAILURES_MAX:
            log.warning("template %s is given up", template.key)
            self.counts.discarded += 1
            self._template = None
            self._failures_in_a_row = 0
            self._wait_before_retry()
            await asyncio.to_thread(self._store.discard)
            await asyncio.to_thread(template.close)

    async def aclose(self) -> None:
        """Stop making one and let go of the one there is; clones that run keep theirs."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait({self._making})
        self._not_before = float("inf")
        if self._template is not None:
            await asyncio.to_thread(self._template.close)
            self._template = None

    async def _make(self) -> None:
        try:
            self._template = await self._load()
            self.counts.loaded += self._template is not None
            self._looked.set()
            if self._template is None:
                log.info("building the guest template")
                await self._build_and_keep()
                self._template = await self._load()
                self.counts.built += self._template is not None
            if self._template is None:
                raise GuestFailure("it was removed while it was made")
        except (ContreeError, OSError) as error:
            self.problem = str(error)
            log.warning("no guest template, guests boot from cold: %s", error)
            self._wait_before_retry()
        except Exception as error:
            self.problem = repr(error)
            log.exception("no guest template, guests boot from cold")
            self._wait_before_retry()
        finally:
            self._tried = True
            self._looked.set()

    async def _load(self) -> Template | None:
        """Open what is on disk. A cancelled load is waited for and closed: it holds memory."""
        loading = asyncio.create_task(asyncio.to_thread(self._store.load))
        try:
            return await asyncio.shield(loading)
        except asyncio.CancelledError:
            with contextlib.suppress(GuestFailure, OSError):
                if (late := await loading) is not None:
                    late.close()
            raise

    async def _build_and_keep(self) -> None:
        with self._store.partial() as partial:
            await self._build(partial)
            await asyncio.to_thread(self._store.keep, partial, kernel=self._kernel)

    def _wait_before_retry(self) -> None:
        self._not_before = asyncio.get_running_loop().time() + self._retry_s
        self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
