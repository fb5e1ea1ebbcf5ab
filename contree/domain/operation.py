"""The Operation aggregate: the record of one import or one run, from request to its end.

    (nothing) --ImportRequested | InstanceRequested--> PENDING
    PENDING   --OperationAssigned--> ASSIGNED      a worker took it, under a lease
    ASSIGNED  --OperationStarted---> EXECUTING     the guest is up, or the pull has begun
    ASSIGNED, EXECUTING --OperationRequeued--> PENDING   lost, or handed back; run again
    ASSIGNED, EXECUTING --OperationSucceeded--> SUCCESS  any exit code: the result is data
    PENDING, ASSIGNED, EXECUTING --OperationFailed--> FAILED       we could not run it
    PENDING, ASSIGNED, EXECUTING --OperationCancelled--> CANCELLED
    ASSIGNED, EXECUTING --CancellationRequested--> (same)  the wish; the worker acts on it
    ASSIGNED, EXECUTING --SubprocessSpawned | ProcessSignalled--> (same)  a client's doing

Terminal states are final. A method refuses with InvalidTransitionError; an event never refuses.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from contree.domain.aggregate import Aggregate, Created, Event, register
from contree.domain.bounded_text import bounded
from contree.domain.context import Context
from contree.domain.errors import InvalidTransitionError
from contree.domain.instance import InstanceSpec
from contree.domain.outcome import ProcessOutcome
from contree.domain.subprocess import SubprocessSpec

MAIN_SPID = 1
"""The number of an instance's main process; clients' further ones count from 2."""

ATTEMPTS_MAX = 3
"""Guests or workers that die this often under one operation are the operation's fault."""
GAVE_UP = f"gave up after {ATTEMPTS_MAX} attempts: {{}}"


class Status(StrEnum):
    PENDING = "PENDING"
    ASSIGNED = "ASSIGNED"
    EXECUTING = "EXECUTING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        return self in {Status.SUCCESS, Status.FAILED, Status.CANCELLED}

    @property
    def is_running(self) -> bool:
        return self in {Status.ASSIGNED, Status.EXECUTING}


class Kind(StrEnum):
    IMPORT = "image_import"
    INSTANCE = "instance"


class ImportRequested(Created):
    """Recorded when a client asks for an import. A password never is: it is sealed beside."""

    TOPIC = "contree.operation.import_requested"
    registry_url: str
    username: str | None
    tag: str | None
    timeout_s: int


class InstanceRequested(Created):
    """Recorded when a client asks for a run, or (`replay_of`) for the repetition of one."""

    TOPIC = "contree.operation.instance_requested"
    spec: dict[str, Any]  # InstanceSpec.to_fact
    replay_of: UUID | None


class OperationAssigned(Event):
    """Recorded by the worker that took it. `attempt` counts from 1 and fences who writes for it."""

    TOPIC = "contree.operation.assigned"
    worker: str
    attempt: int
    lease_until: datetime

    def apply(self, aggregate: Operation) -> None:
        aggregate.status = Status.ASSIGNED
        aggregate.worker = self.worker
        aggregate.attempts = self.attempt
        aggregate.started_at = self.timestamp


class OperationStarted(Event):
    """Recorded when the work itself begins. `facts`: accelerator, kernel, network, ..."""

    TOPIC = "contree.operation.started"
    facts: dict[str, Any]

    def apply(self, aggregate: Operation) -> None:
        aggregate.status = Status.EXECUTING


class OperationRequeued(Event):
    """Recorded when an attempt was lost (`counted`), or handed back: see Operation.lose."""

    TOPIC = "contree.operation.requeued"
    reason: str
    counted: bool

    def apply(self, aggregate: Operation) -> None:
        aggregate.status = Status.PENDING
        aggregate.worker = None
        aggregate.attempts_lost += self.counted


class CancellationRequested(Event):
    """Recorded when a client cancels what a worker already has."""

    TOPIC = "contree.operation.cancellation_requested"

    def apply(self, aggregate: Operation) -> None:
        aggregate.cancellation_requested = True


class SubprocessSpawned(Event):
    """Recorded when a client's further process has started in the guest; the actor is the client.

    spid  2, 3, ...: never used twice in an operation; `pid` is the guest's
    spec  SubprocessSpec.to_fact; standard input is a digest
    """

    TOPIC = "contree.operation.subprocess_spawned"
    spid: int
    pid: int
    spec: dict[str, Any]

    def apply(self, aggregate: Operation) -> None:
        aggregate.last_spid = self.spid


class ProcessSignalled(Event):
    """Recorded before a client's signal goes to the process group of `spid`."""

    TOPIC = "contree.operation.process_signalled"
    spid: int
    signal: int

    def apply(self, aggregate: Operation) -> None:
        aggregate.signals += 1


class OperationSucceeded(Event):
    """Recorded in the same transaction as the image it names.

    outcome           ProcessOutcome.to_fact of the main process; None for an import
    image_size_bytes  bytes of the new layer (run) or of all layers (import); None without image
    journal_sha256    digest of the operation's journal as stored; None when there is none
    """

    TOPIC = "contree.operation.succeeded"
    result_image_id: UUID | None
    result_tag: str | None
    image_size_bytes: int | None
    outcome: dict[str, Any] | None
    duration_us: int
    journal_sha256: str | None

    def apply(self, aggregate: Operation) -> None:
        aggregate.status = Status.SUCCESS
        aggregate.result_image_id = self.result_image_id


class OperationFailed(Event):
    """Recorded when we could not perform it; `error` is for the client, `outcome` its command's."""

    TOPIC = "contree.operation.failed"
    error: str
    outcome: dict[str, Any] | None
    duration_us: int
    journal_sha256: str | None

    def apply(self, aggregate: Operation) -> None:
        aggregate.status = Status.FAILED


class OperationCancelled(Event):
    """Recorded when a client's wish to stop has been carried out."""

    TOPIC = "contree.operation.cancelled"
    error: str
    duration_us: int
    journal_sha256: str | None

    def apply(self, aggregate: Operation) -> None:
        aggregate.status = Status.CANCELLED


class Operation(Aggregate):
    """One import or run. Exactly one of `spec` and `registry_url` is set."""

    TOPIC = "contree.operation"

    def __init__(
        self,
        project_id: UUID,
        spec: dict[str, Any] | None = None,
        replay_of: UUID | None = None,
        registry_url: str | None = None,
        username: str | None = None,
        tag: str | None = None,
        timeout_s: int = 0,
    ) -> None:
        self.kind = Kind.IMPORT if spec is None else Kind.INSTANCE
        self.spec = None if spec is None else InstanceSpec.from_fact(spec)
        self.replay_of = replay_of
        self.registry_url = registry_url
        self.username = username
        self.tag = tag
        self.timeout_s = timeout_s
        self.project_id = project_id
        self.status = Status.PENDING
        self.worker: str | None = None
        self.attempts = 0
        self.attempts_lost = 0
        self.started_at: datetime | None = None
        self.cancellation_requested = False
        self.result_image_id: UUID | None = None
        self.last_spid = MAIN_SPID
        self.signals = 0

    @classmethod
    def request_import(
        cls,
        context: Context,
        *,
        operation_id: UUID,
        registry_url: str,
        username: str | None,
        tag: str | None,
        timeout_s: int,
    ) -> Operation:
        return cls._begin(
            ImportRequested,
            context,
            operation_id,
            registry_url=registry_url,
            username=username,
            tag=tag,
            timeout_s=timeout_s,
        )

    @classmethod
    def request_instance(
        cls,
        context: Context,
        *,
        operation_id: UUID,
        spec: InstanceSpec,
        replay_of: UUID | None = None,
    ) -> Operation:
        spec.check()
        facts = {"spec": spec.to_fact(), "replay_of": replay_of}
        return cls._begin(InstanceRequested, context, operation_id, **facts)

    def assign(self, context: Context, *, worker: str, lease_until: datetime) -> None:
        """Give a pending operation to `worker`."""
        self._require(self.status is Status.PENDING, "be assigned")
        self._record(
            OperationAssigned,
            context,
            worker=worker,
            attempt=self.attempts + 1,
            lease_until=lease_until,
        )

    def start(self, context: Context, **facts: Any) -> None:
        self._require(self.status is Status.ASSIGNED, "start")
        self._record(OperationStarted, context, facts=facts)

    def subprocess_spawned(
        self, context: Context, *, spid: int, pid: int, spec: SubprocessSpec
    ) -> None:
        """A client's process runs. Raises InvalidTransitionError unless `spid` is a new number."""
        self._require(self.status.is_running and self.spec is not None, "have subprocesses")
        self._require(spid > self.last_spid, f"use the process number {spid} again")
        self._record(SubprocessSpawned, context, spid=spid, pid=pid, spec=spec.to_fact())

    def signalled(self, context: Context, *, spid: int, signal: int) -> None:
        """A client sends `signal` to a process."""
        self._require(self.status.is_running and self.spec is not None, "be sent signals")
        self._record(ProcessSignalled, context, spid=spid, signal=signal)

    def lose(self, context: Context, *, reason: str, counted: bool = True) -> None:
        """An attempt is over before its end: run again, cancel if asked to, or give up.

        `counted`: its guest or worker died under it, and ATTEMPTS_MAX such are the last. Else it is
        handed back, as often as need be: something interrupted it that it has no part in.
        """
        self._require(self.status.is_running, "be requeued")
        if self.cancellation_requested:
            self._cancelled(context)
        elif counted and self.attempts_lost + 1 >= ATTEMPTS_MAX:
            self.fail(context, error=GAVE_UP.format(reason))
        else:
            self._record(OperationRequeued, context, reason=bounded(reason), counted=counted)

    def cancel(self, context: Context) -> None:
        """Record a client's wish to stop: at once when no worker has it.

        A second wish records nothing. Raises InvalidTransitionError when it has ended.
        """
        self._require(not self.status.is_terminal, "be cancelled")
        if self.status is Status.PENDING:
            self._cancelled(context)
        elif not self.cancellation_requested:
            self._record(CancellationRequested, context)

    def cancelled(self, context: Context, *, journal_sha256: str | None = None) -> None:
        """The worker stopped the work, as asked."""
        self._require(self.status.is_running, "be cancelled")
        self._cancelled(context, journal_sha256=journal_sha256)

    def succeed(
        self,
        context: Context,
        *,
        result_image_id: UUID | None,
        result_tag: str | None = None,
        image_size_bytes: int | None = None,
        outcome: ProcessOutcome | None = None,
        journal_sha256: str | None = None,
    ) -> None:
        self._require(self.status.is_running, "succeed")
        self._record(
            OperationSucceeded,
            context,
            result_image_id=result_image_id,
            result_tag=result_tag,
            image_size_bytes=image_size_bytes,
            outcome=None if outcome is None else outcome.to_fact(),
            duration_us=self._duration_us(context),
            journal_sha256=journal_sha256,
        )

    def fail(
        self,
        context: Context,
        *,
        error: str,
        outcome: ProcessOutcome | None = None,
        journal_sha256: str | None = None,
    ) -> None:
        self._require(not self.status.is_terminal, "fail")
        self._record(
            OperationFailed,
            context,
            error=bounded(error),
            outcome=None if outcome is None else outcome.to_fact(),
            duration_us=self._duration_us(context),
            journal_sha256=journal_sha256,
        )

    def _cancelled(self, context: Context, *, journal_sha256: str | None = None) -> None:
        self._record(
            OperationCancelled,
            context,
            error="cancelled by request",
            duration_us=self._duration_us(context),
            journal_sha256=journal_sha256,
        )

    def _duration_us(self, context: Context) -> int:
        if self.started_at is None or self.status is Status.PENDING:
            return 0
        return max(0, round((context.at - self.started_at).total_seconds() * 1_000_000))

    def _require(self, allowed: bool, what: str) -> None:
        if not allowed:
            raise InvalidTransitionError(
                f"operation {self.id} is {self.status.value} and cannot {what}"
            )


register(Operation, ImportRequested, InstanceRequested, OperationAssigned, OperationStarted)
register(OperationRequeued, CancellationRequested, SubprocessSpawned, ProcessSignalled)
register(OperationSucceeded, OperationFailed, OperationCancelled)
