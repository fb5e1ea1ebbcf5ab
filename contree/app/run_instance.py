"""Carry out a run: one guest, one command, the delta as a layer, the image it leaves behind.

Order (design section 3): the output and the layer are durable before the transaction that records
image and success; until then nothing the run did can be seen, so an attempt that is lost is simply
run again from its immutable image. While the database or the store is away a run waits (Outages).
When the end is a failure, what is known of the command goes with it: its exit code, output and
usage cannot be had again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import orjson

from contree.app.clock import Clock, IdSource
from contree.app.conclude import Conclude
from contree.app.content.project_content import ProjectContent
from contree.app.content.project_environment import Inherited, ProjectEnvironment
from contree.app.event_log import EventLog
from contree.app.guest.control_server import ControlServer
from contree.app.guest.guest_command import MainProcess, Steering, run_command
from contree.app.guest.guest_control import GuestControl, Inbox
from contree.app.guest.guest_processes import GuestProcesses
from contree.app.guest.microvm import Guest, GuestSpec, MicroVM, ProcessSpec
from contree.app.guest.process_specs import client_process, main_process
from contree.app.images.layer_store import Layer, LayerStore, MountPlan
from contree.app.images.runnable_image import RunnableImage, runnable_image
from contree.app.journal import Journal
from contree.app.left_behind import LeftBehind, left_behind, result_image
from contree.app.operation_history import OperationHistory
from contree.app.operation_journal import OperationJournal
from contree.app.outages import Outages
from contree.app.place_files import PlaceFiles
from contree.app.reads import ImageReads
from contree.app.run_outcome import RunOutcome
from contree.app.sealing import Sealer
from contree.domain.aggregate import Aggregate
from contree.domain.context import Context
from contree.domain.errors import (
    ContentErasedError,
    ContreeError,
    EventTooLargeError,
    GuestFailure,
    InvalidFieldError,
    LimitExceededError,
    NotFoundError,
    OperationFailure,
    StorageFullError,
)
from contree.domain.instance import InstanceSpec, Stdin
from contree.domain.operation import ATTEMPTS_MAX, GAVE_UP, Operation
from contree.domain.outcome import ProcessOutcome
from contree.domain.subprocess import SubprocessSpec

NETWORK = "none"
"""Guests have no network yet, whatever `networking.enabled` says; the start event records it."""

OVERHEAD_MAX_S = 4 * 3600
"""How long an attempt may take beside the command's own timeout: start, files, what it wrote, and
keeping that. Each wait, for a guest or for what is away, has a bound of its own; this one bounds
whatever sum a hostile guest makes of them, and is far above what an honest one needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What a run needs that is kept elsewhere. `spec` and the environments have real values."""

    image: RunnableImage
    spec: InstanceSpec
    inherited: Inherited
    request_env: Mapping[str, str | None]
    mounts: MountPlan


class RunInstance:
    """The worker's side of a run."""

    def __init__(
        self,
        *,
        log: EventLog,
        images: ImageReads,
        files: PlaceFiles,
        content: ProjectContent,
        environment: ProjectEnvironment,
        layers: LayerStore,
        microvm: MicroVM,
        journal: Journal,
        control: GuestControl,
        sealer: Sealer,
        clock: Clock,
        ids: IdSource,
        conclude: Conclude,
        outages: Outages,
    ) -> None:
        self._log = log
        self._images = images
        self._files = files
        self._content = content
        self._environment = environment
        self._layers = layers
        self._microvm = microvm
        self._journal = journal
        self._control = control
        self._sealer = sealer
        self._clock = clock
        self._ids = ids
        self._conclude = conclude
        self._outages = outages

    async def execute(self, operation: Operation) -> None:
        """Bring the assigned `operation` to its end, or back into the queue.

        A guest that is lost through no fault of the command (before it started, QEMU killed from
        outside) is run again; otherwise it is FAILED with the reason, also after OVERHEAD_MAX_S
        beside its timeout. Cancelling leaves the operation running in the log and no guest, and so
        do UnavailableError, when something was away for too long, and StorageFullError: this host
        has no room for what the run needs.
        """
        main = MainProcess()
        async with OperationJournal(
            self._journal, self._clock, operation.id, self._outages
        ) as journal:
            try:
                await self._in_time(operation, main, journal)
            except (
                OperationFailure,
                InvalidFieldError,
                LimitExceededError,
                NotFoundError,
                ContentErasedError,
                EventTooLargeError,
            ) as failure:
                if isinstance(failure, GuestFailure) and failure.host_full:
                    raise StorageFullError(str(failure)) from failure
                await self._give_up(operation, main, journal, failure)
            except asyncio.CancelledError:
                await journal.abandon()
                raise

    async def _give_up(
        self,
        operation: Operation,
        main: MainProcess,
        journal: OperationJournal,
        failure: ContreeError,
    ) -> None:
        """Let it be run again, or end it as FAILED with all that is known of its command."""
        error = str(failure)
        if isinstance(failure, OperationFailure) and failure.retryable:
            if operation.attempts_lost + 1 < ATTEMPTS_MAX:
                await self._conclude.lose(operation.id, error, attempt=operation.attempts)
                return
            error = GAVE_UP.format(error)
        digest = await journal.finish()
        result, outcome = main.result(), None
        # An event that was refused for its size had the outcome too: the end is to fit for certain.
        if result is not None and not isinstance(failure, EventTooLargeError):
            outcome = await self._outcome(operation).as_possible(result)
        await self._conclude.fail(operation, error, outcome=outcome, journal_sha256=digest)

    async def _in_time(
        self, operation: Operation, main: MainProcess, journal: OperationJournal
    ) -> None:
        spec = operation.spec
        if spec is None:
            raise OperationFailure("the operation is not a run")
        allowed_s = spec.timeout_s + OVERHEAD_MAX_S
        deadline = asyncio.timeout(allowed_s)
        try:
            async with deadline:
                await self._execute(operation, spec, main, journal)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise OperationFailure(
                f"the run was given up after {allowed_s:g} s: its command had {spec.timeout_s} s,"
                " and its guest did not come to an end"
            ) from error

    async def _execute(
        self,
        operation: Operation,
        recorded: InstanceSpec,
        main: MainProcess,
        journal: OperationJournal,
    ) -> None:
        what = f"operation {operation.id}: what it needs"
        prepared = await self._outages.waited_out(what, partial(self._prepare, operation, recorded))
        image, spec, inherited = prepared.image, prepared.spec, prepared.inherited
        request_env = prepared.request_env
        guest_spec = GuestSpec(
            run_id=self._ids.new_id(),
            mounts=prepared.mounts,
            hostname=spec.hostname,
            max_layer_bytes=spec.max_layer_bytes,
        )
        async with self._microvm.start(guest_spec) as guest:
            await self._record_start(operation, guest)
            await journal.began(guest.info, hostname=spec.hostname)
            await self._files.place(guest, operation.project_id, spec)
            await run_command(
                guest,
                main_process(spec, image, inherited, request_env),
                main=main,
                stdin=None if spec.stdin is None else self._stdin(operation, spec.stdin),
                close_stdin=spec.stdin is None or spec.stdin.close,
                shell=spec.shell,
                journal=journal,
                steering=self._steering(operation, spec, image, inherited, request_env),
            )
            result = main.result()
            assert result is not None  # it has ended
            storing = asyncio.create_task(self._outcome(operation).whole(result))
            try:
                layer = await self._keep_delta(guest, image, spec)
                outcome = await storing
            finally:
                storing.cancel()
                await asyncio.gather(storing, return_exceptions=True)
        digest = await journal.finish()
        left = await self._outages.waited_out(
            what, partial(left_behind, self._environment, image, spec, inherited, request_env)
        )
        await self._record_success(operation, image, left, layer, outcome, digest)

    async def _prepare(self, operation: Operation, spec: InstanceSpec) -> _Prepared:
        await self._content.require(operation.project_id)
        image = await runnable_image(self._log, self._images, operation.project_id, spec.image_id)
        spec = await self._environment.opened(operation.project_id, spec)
        return _Prepared(
            image=image,
            spec=spec,
            inherited=await self._environment.inherited(image.environment),
            request_env=await self._request_environment(operation, spec),
            mounts=await self._layers.mount_plan(image.layers),
        )

    async def _request_environment(
        self, operation: Operation, spec: InstanceSpec
    ) -> dict[str, str | None]:
        """The environment as it was sent: masked values come out of the sealed secret."""
        env = dict(spec.env)
        if spec.env_digests:
            sealed = await self._log.sealed(operation.id)
            if sealed is None:
                raise OperationFailure("the secret environment values are gone, run it again")
            env.update(orjson.loads(self._sealer.open(sealed)))
        return env

    async def _record_start(self, operation: Operation, guest: Guest) -> None:
        await self._conclude.started(
            operation,
            accelerator=guest.info.accelerator,
            origin=guest.info.origin.value,
            kernel=guest.info.kernel,
            boot_id=str(guest.info.boot_id),
            network=NETWORK,
        )

    def _read(self, operation: Operation, sha256: str) -> AsyncGenerator[bytes, None]:
        return self._outages.read(
            f"content {sha256}", partial(self._content.read, operation.project_id, sha256)
        )

    def _stdin(self, operation: Operation, stdin: Stdin) -> AsyncIterator[bytes]:
        return self._read(operation, stdin.sha256)

    @asynccontextmanager
    async def _inbox(self, operation: Operation) -> AsyncIterator[Inbox]:
        async with AsyncExitStack() as stack:
            yield await self._outages.waited_out(
                f"operation {operation.id}: its inbox",
                lambda: stack.enter_async_context(self._control.open(operation.id)),
            )

    def _steering(
        self,
        operation: Operation,
        spec: InstanceSpec,
        image: RunnableImage,
        inherited: Inherited,
        request_env: Mapping[str, str | None],
    ) -> Steering:
        """What clients start beside the command has its image, environment and directory."""
        history = OperationHistory(
            log=self._log, outages=self._outages, clock=self._clock, operation_id=operation.id
        )

        async def to_process(wanted: SubprocessSpec, sealed: bytes) -> ProcessSpec:
            wanted = await self._outages.waited_out(
                f"operation {operation.id}: the environment of a process",
                partial(self._environment.opened, operation.project_id, wanted),
            )
            secrets = orjson.loads(self._sealer.open(sealed)) if sealed else {}
            return client_process(
                wanted, spec, image, inherited, {**request_env, **wanted.env, **secrets}
            )

        def server(inbox: Inbox, processes: GuestProcesses) -> ControlServer:
            return ControlServer(
                inbox=inbox,
                processes=processes,
                history=history,
                to_process=to_process,
                read_stdin=partial(self._stdin, operation),
            )

        return Steering(inbox=self._inbox(operation), server=server)

    async def _keep_delta(
        self, guest: Guest, image: RunnableImage, spec: InstanceSpec
    ) -> Layer | None:
        if spec.disposable:
            return None
        return await self._layers.add_delta(
            guest.capture(bytes_max=spec.max_layer_bytes),
            below=image.layers,
            bytes_max=spec.max_layer_bytes,
        )

    def _outcome(self, operation: Operation) -> RunOutcome:
        return RunOutcome(self._content, self._outages, operation)

    async def _record_success(
        self,
        operation: Operation,
        image: RunnableImage,
        left: LeftBehind,
        layer: Layer | None,
        outcome: ProcessOutcome,
        journal_sha256: str,
    ) -> None:
        async def decide(current: Operation, context: Context) -> Sequence[Aggregate]:
            result = result_image(context, current, image, left, layer)
            current.succeed(
                context,
                result_image_id=None if result is None else result.id,
                image_size_bytes=0 if layer is None else layer.size_bytes,
                outcome=outcome,
                journal_sha256=journal_sha256,
            )
            return () if result is None or result is image.image else (result,)

        await self._conclude.conclude(operation, decide, journal_sha256=journal_sha256)
