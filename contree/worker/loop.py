"""The worker's loop: claim what there is room for, run it, act on cancellations, drain.

    start: sweep guests and requeue what an earlier life left
    woken by the queue (NOTIFY) or every POLL_S: cancellations, claim
    nothing queued or running: let guests be made that wait for runs to come
    stop: claim no more; what runs may go on for the drain timeout, then it is handed back

One task an operation (worker.attempts). Leases are renewed until the last of them has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
from contree.domain.operation import Kind, Operation
from contree.domain.project import NAMESPACE
from contree.worker.attempts import HAND_BACK_S, Attempts, Execute
from contree.worker.leases import LEASE_S, NOT_NOW, Leases
from contree.worker.obstacles import Obstacle, Obstacles
from contree.worker.room import Admission

POLL_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What bounds the operations of a kind: the room here, and how many a project may have."""

    here: Admission
    per_project: int


class Worker:
    """One worker process.

    name       stable over restarts of the same installation
    obstacles  what may keep it from taking on any operation
    drain_s    how long what runs may go on once it is to stop
    resumes    whether what the log says it holds was left by an earlier life on this host, which
               is over; else that is left to the leases
    waiting    how many guests may wait, by now, for runs that are not known yet
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
        obstacles: Obstacles,
        drain_s: float,
        resumes: bool = True,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        self._name = name
        self._waiting = waiting
        self._queue = queue
        self._execute = execute
        self._capacity = capacity
        self._attempts = Attempts(worker=name, conclude=conclude, obstacles=obstacles)
        self._recover = recover
        self._microvm = microvm
        self._clock = clock
        self._ids = ids
        self._obstacles = obstacles
        self._drain_s = drain_s
        self._resumes = resumes
        self._running: dict[UUID, tuple[Kind, asyncio.Task[None]]] = {}
        self._cancelled: set[UUID] = set()
        self._told: dict[Kind, str] = {}
        self._room = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._claim_unheard = False
        self._draining = False
        self._leases = Leases(
            worker=name,
            queue=queue,
            recover=recover,
            clock=clock,
            held=lambda: tuple(self._running),
        )

    @property
    def renewed_at(self) -> datetime | None:
        """When it last renewed its leases; None before the first time."""
        return self._leases.renewed_at

    @property
    def running(self) -> Mapping[Kind, int]:
        """How many operations it carries out."""
        return {kind: self._running_of(kind) for kind in self._capacity}

    @property
    def obstacle(self) -> Obstacle | None:
        """What keeps it from taking on any operation now."""
        if self._draining:
            return Obstacle(kind="draining", reason="it is to stop")
        return self._obstacles.first()

    def free(self) -> Mapping[Kind, int]:
        """How many more operations it would take on now."""
        if self.obstacle is not None:
            return dict.fromkeys(self._capacity, 0)
        rooms = {
            kind: one.here.room(self._running_of(kind)) for kind, one in self._capacity.items()
        }
        return {kind: max(0, room.more) for kind, room in rooms.items()}

    async def run(
        self,
        stop: asyncio.Event,
        *,
        at_once: asyncio.Event | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Work until `stop` is set, then drain, until `at_once` is set or nothing runs any more.

        Raises only what cannot be gone on from.

        `on_ready` is called once, when it has looked for work for the first time.
        """
        swept = await self._microvm.sweep()
        requeued = await self._recover.own(self._name) if self._resumes else 0
        if swept or requeued:
            log.warning("an earlier life left %d guests and %d operations", swept, requeued)
        helpers = [
            asyncio.create_task(self._follow(), name="follow"),
            asyncio.create_task(self._serve_queue(on_ready), name="queue"),
            asyncio.create_task(self._leases.keep(), name="leases"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        at_once = at_once or asyncio.Event()
        try:
            await asyncio.wait([*helpers, stopping], return_when=asyncio.FIRST_COMPLETED)
            if any(helper.done() for helper in helpers):
                at_once.set()  # nothing would look after what runs
            await self._drain(at_once)
        finally:
            for task in (*helpers, stopping):
                task.cancel()
            ended = await asyncio.gather(*helpers, stopping, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    async def _follow(self) -> None:
        async for wake in self._queue.wakeups(worker=self._name, poll_s=POLL_S):
            if wake.unwanted or any(self._has_room(kind) for kind in wake.waiting):
                self._room.set()

    def _has_room(self, kind: Kind) -> bool:
        return kind in self._execute and (
            self._capacity[kind].here.room(self._running_of(kind)).more > 0
        )

    async def _serve_queue(self, on_ready: Callable[[], None]) -> None:
        told = False
        while True:
            await self._room.wait()
            self._room.clear()
            try:
                # All who have room are woken, most of them for nothing: so one question first.
                found = await self._queue.look(worker=self._name)
                self._stop_unwanted(found.unwanted)
                if self._claim_unheard:
                    await self._recover.unheard(self._name, self._running)
                    self._claim_unheard = False
                blocked = self._obstacles.in_the_way()
                for kind in self._execute:
                    if kind in found.pending and not blocked:
                        await self._claim(kind)
                if not self._draining:
                    fill = not self._running and not blocked
                    self._microvm.keep_waiting(self._waiting(), fill=fill)
                if not told:
                    told = True
                    on_ready()
            except NOT_NOW as error:
                # What runs goes on.
                log.warning("the queue is not served: %s", error)
                await asyncio.sleep(POLL_S)
                self._room.set()

    async def _claim(self, kind: Kind) -> None:
        async with self._claiming:
            if self._draining:
                return
            capacity = self._capacity[kind]
            room = capacity.here.room(self._running_of(kind))
            if self._told.get(kind) != room.bound:
                self._told[kind] = room.bound
                log.info("%ss here are bounded by %s: %s", kind.value, room.bound, room.reason)
            if room.more < 1:
                return
            context = self._context()
            self._claim_unheard = True
            claimed = await self._queue.claim(
                worker=self._name,
                kind=kind,
                limit=room.more,
                running_per_project_max=capacity.per_project,
                lease_until=context.at + timedelta(seconds=LEASE_S),
                context=context,
            )
            self._claim_unheard = False
            for operation in claimed:
                self._begin(kind, operation)
            if len(claimed) == room.more and self._has_room(kind):
                self._room.set()  # more may wait

    def _begin(self, kind: Kind, operation: Operation) -> None:
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
        if after is not None:
            after.cancel()
            await asyncio.wait({after})
        await self._attempts.make(
            operation,
            self._execute[operation.kind],
            is_unwanted=lambda: operation.id in self._cancelled,
        )

    def _stop_unwanted(self, unwanted: Sequence[UUID]) -> None:
        for operation_id in unwanted:
            running = self._running.get(operation_id)
            if running is not None and operation_id not in self._cancelled:
                self._cancelled.add(operation_id)
                running[1].cancel()

    async def _drain(self, at_once: asyncio.Event) -> None:
        """Wait for what runs, `drain_s` at most; hand back what is left then."""
        self._draining = True
        self._microvm.keep_waiting(0, fill=False)
        hurry = asyncio.create_task(at_once.wait(), name="hurry")
        deadline_s = asyncio.get_running_loop().time() + self._drain_s
        # What is being claimed must be known here before it can be handed back.
        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_BACK_S), self._claiming:
                pass
        if self._running and not at_once.is_set():
            log.warning(
                "draining: %d operations may go on for up to %.0f s; a second SIGTERM or SIGINT"
                " (Ctrl-C) hands them back at once",
                len(self._running),
                self._drain_s,
            )
        while self._running and not hurry.done():
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            tasks = [task for _, task in self._running.values()]
            await asyncio.wait({*tasks, hurry}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # those that have ended are taken out of the table
        hurry.cancel()
        late = [task for _, task in self._running.values()]
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
