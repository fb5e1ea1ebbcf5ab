"""The worker's loop: claim what there is room for, run it, act on cancellations, renew, recover.

    start: sweep guests and requeue what an earlier life left
    woken by the log (NOTIFY) or every POLL_S: cancellations, claim
    every LEASE_S / 3: renew own leases, requeue those of lost workers
    nothing queued or running: let guests be made that wait for runs to come
    the host lacks what operations need: claim nothing until it has it again
    stop: claim no more; what runs is given DRAIN_S, then put back into the queue

One task an operation. A task that is cancelled leaves its operation running in the log; the loop
then records why: a client's wish, or the worker's stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from contree.app.clock import Clock, IdSource
from contree.app.conclude import Conclude
from contree.app.guest.microvm import MicroVM
from contree.app.recover import Recover
from contree.app.work_queue import WorkQueue
from contree.domain.context import Context
from contree.domain.errors import ConflictError, ContreeError, StorageFullError, UnavailableError
from contree.domain.operation import Kind, Operation
from contree.domain.project import NAMESPACE
from contree.worker.host_watch import HostWatch
from contree.worker.room import Admission

LEASE_S = 60.0
POLL_S = 2.0
DRAIN_S = 5.0

NOT_NOW = (ConflictError, StorageFullError, UnavailableError)
"""What the log cannot do now and can later."""

log = logging.getLogger(__name__)

Execute = Callable[[Operation], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What bounds the operations of a kind: the room here, and how many a project may have."""

    here: Admission
    per_project: int


class Worker:
    """One worker process.

    name     stable over restarts of the same installation
    store    raises UnavailableError while what operations need beside the database is away
    host     whether this host has what operations need
    waiting  how many guests may wait, by now, for runs that are not known yet
    """

    def __init__(
        self,
        *,
        name: str,
        queue: WorkQueue,
        execute: Mapping[Kind, Execute],
        capacity: Mapping[Kind, Capacity],
        conclude: Conclude,
        recover: Recover,
        microvm: MicroVM,
        clock: Clock,
        ids: IdSource,
        store: Callable[[], Awaitable[None]],
        host: HostWatch | None = None,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        self._name = name
        self._host = host or HostWatch()
        self._waiting = waiting
        self._queue = queue
        self._execute = execute
        self._capacity = capacity
        self._conclude = conclude
        self._recover = recover
        self._microvm = microvm
        self._clock = clock
        self._ids = ids
        self._store = store
        self._running: dict[UUID, tuple[Kind, asyncio.Task[None]]] = {}
        self._cancelled: set[UUID] = set()
        self._stranded: set[UUID] = set()
        self._told: dict[Kind, str] = {}
        self._room = asyncio.Event()
        self._renewed_at: datetime | None = None

    @property
    def renewed_at(self) -> datetime | None:
        """When it last renewed its leases; None before the first time."""
        return self._renewed_at

    @property
    def running(self) -> Mapping[Kind, int]:
        """How many operations it carries out."""
        return {kind: self._running_of(kind) for kind in self._capacity}

    def free(self) -> Mapping[Kind, int]:
        """How many more operations it would take on now."""
        if self._stranded or self._host.lack:
            return dict.fromkeys(self._capacity, 0)
        rooms = {
            kind: one.here.room(self._running_of(kind)) for kind, one in self._capacity.items()
        }
        return {kind: max(0, room.more) for kind, room in rooms.items()}

    async def run(
        self, stop: asyncio.Event, *, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        """Work until `stop` is set, then drain. Raises only what cannot be gone on from.

        `on_ready` is called once, when it has looked for work for the first time.
        """
        swept = await self._microvm.sweep()
        requeued = await self._recover.own(self._name)
        if swept or requeued:
            log.warning("an earlier life left %d guests and %d operations", swept, requeued)
        helpers = [
            asyncio.create_task(self._host.keep_looking(), name="host"),
            asyncio.create_task(self._follow(), name="follow"),
            asyncio.create_task(self._serve_queue(on_ready), name="queue"),
            asyncio.create_task(self._keep_leases(), name="leases"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        done, _ = await asyncio.wait([*helpers, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (*helpers, stopping):
            task.cancel()
        await asyncio.gather(*helpers, stopping, return_exceptions=True)
        self._microvm.keep_waiting(0, fill=False)
        await self._drain()
        for task in done:
            task.result()

    async def _follow(self) -> None:
        async for _ in self._queue.wakeups(poll_s=POLL_S):
            self._room.set()

    async def _serve_queue(self, on_ready: Callable[[], None]) -> None:
        told = False
        while True:
            await self._room.wait()
            self._room.clear()
            try:
                # Woken by every event, mostly for nothing: so one question, and no sum of room.
                found = await self._queue.look(worker=self._name)
                self._stop_unwanted(found.unwanted)
                if self._host.lack:
                    continue
                for kind in self._execute:
                    if kind in found.pending:
                        await self._claim(kind)
                self._microvm.keep_waiting(self._waiting(), fill=not self._running)
                if not told:
                    told = True
                    on_ready()
            except NOT_NOW as error:
                # What runs goes on: a claim that is not recorded has taken nothing, and the leases
                # of one that is recorded and was not answered run out.
                log.warning("the queue is not served: %s", error)
                await asyncio.sleep(POLL_S)
                self._room.set()

    async def _claim(self, kind: Kind) -> None:
        if self._stranded:
            return  # another would fare no better, and another worker may
        capacity = self._capacity[kind]
        room = capacity.here.room(self._running_of(kind))
        if self._told.get(kind) != room.bound:
            self._told[kind] = room.bound
            log.info("%ss here are bounded by %s: %s", kind.value, room.bound, room.reason)
        if room.more < 1:
            return
        claimed = await self._queue.claim(
            worker=self._name,
            kind=kind,
            limit=room.more,
            running_per_project_max=capacity.per_project,
            lease_until=self._clock.now() + timedelta(seconds=LEASE_S),
            context=self._context(),
        )
        for operation in claimed:
            # One whose lease ran out may come back while its lost attempt still runs here.
            _, lost = self._running.get(operation.id, (kind, None))
            work = self._work(operation, after=lost)
            task = asyncio.create_task(work, name=f"operation {operation.id}")
            self._running[operation.id] = (kind, task)
            self._cancelled.discard(operation.id)
            task.add_done_callback(partial(self._ended, operation.id))

    def _running_of(self, kind: Kind) -> int:
        return sum(1 for of, _ in self._running.values() if of is kind)

    def _ended(self, operation_id: UUID, task: asyncio.Task[None]) -> None:
        if self._running.get(operation_id, (None, None))[1] is task:
            del self._running[operation_id]
            self._cancelled.discard(operation_id)
        self._room.set()

    async def _work(self, operation: Operation, *, after: asyncio.Task[None] | None) -> None:
        log.info("operation %s: attempt %d begins", operation.id, operation.attempts)
        try:
            if after is not None:
                after.cancel()
                await asyncio.wait({after})
            await self._attempt(operation)
        except asyncio.CancelledError:
            # A wish to cancel that is in the log makes `lose` record the cancellation.
            reason = "the worker was stopped"
            if operation.id in self._cancelled:
                await self._lose_when_possible(operation, reason)
            else:  # what cannot be recorded now is found at the next start
                await asyncio.shield(self._lose(operation, reason))

    async def _attempt(self, operation: Operation) -> None:
        try:
            await self._execute[operation.kind](operation)
        except UnavailableError as error:
            # What the log cannot take now, the lease brings back later.
            log.warning("operation %s: what it needs is away: %s", operation.id, error)
            lost = self._host.look() or "the database or the store was lost"
            await self._lose_with_store(operation, lost)
        except ContreeError as error:
            log.exception("operation %s failed", operation.id)
            await self._lose_with_store(operation, str(error))
        except Exception:
            log.exception("operation %s hit a defect", operation.id)
            await self._lose_with_store(operation, "internal error, see the worker's log")
        else:
            log.info("operation %s: attempt %d ended", operation.id, operation.attempts)

    async def _lose(self, operation: Operation, reason: str) -> None:
        await self._conclude.lose(operation.id, reason, attempt=operation.attempts)

    async def _lose_when_possible(self, operation: Operation, reason: str) -> None:
        """Until it is recorded it is ours: our lease, renewed, keeps everybody else away."""
        while True:
            try:
                return await self._lose(operation, reason)
            except NOT_NOW as error:
                log.warning("operation %s: its loss is not recorded yet: %s", operation.id, error)
                await asyncio.sleep(POLL_S)

    async def _lose_with_store(self, operation: Operation, reason: str) -> None:
        """Not before the store, or what the host lacked, is back: that costs no attempt."""
        self._stranded.add(operation.id)
        try:
            while True:
                try:
                    await self._store()
                    if lack := self._host.look():
                        raise UnavailableError(lack)
                    break
                except UnavailableError as error:
                    log.warning("operation %s: no other attempt yet: %s", operation.id, error)
                    await asyncio.sleep(POLL_S)
            await self._lose_when_possible(operation, reason)
        finally:
            self._stranded.discard(operation.id)

    def _stop_unwanted(self, unwanted: Sequence[UUID]) -> None:
        for operation_id in unwanted:
            running = self._running.get(operation_id)
            if running is not None and operation_id not in self._cancelled:
                self._cancelled.add(operation_id)
                running[1].cancel()

    async def _keep_leases(self) -> None:
        while True:
            try:
                lease_until = self._clock.now() + timedelta(seconds=LEASE_S)
                await self._queue.renew(
                    tuple(self._running), worker=self._name, lease_until=lease_until
                )
                self._renewed_at = self._clock.now()
                await self._recover.others()
            except NOT_NOW as error:
                log.warning("leases not renewed, or lost operations not requeued: %s", error)
            await asyncio.sleep(LEASE_S / 3)

    async def _drain(self) -> None:
        tasks = [task for _, task in self._running.values()]
        if not tasks:
            return
        log.info("waiting up to %.0f s for %d running operations", DRAIN_S, len(tasks))
        _, late = await asyncio.wait(tasks, timeout=DRAIN_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _context(self) -> Context:
        return Context(
            actor=f"worker:{self._name}",
            project_id=NAMESPACE,  # replaced by each operation's own
            request_id=str(self._ids.new_id()),
            at=self._clock.now(),
        )
