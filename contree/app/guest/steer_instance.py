"""Start, feed and signal processes of a running instance: the API's side of guest control.

It checks what can be checked here, sends one command to the worker that holds the operation, and
says in words what became of it. What was done enters the log there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

import orjson

from contree.app.access import Caller
from contree.app.guest.guest_control import (
    PAYLOAD_BYTES_MAX,
    Action,
    ControlAnswer,
    GuestCommand,
    GuestControl,
    Outcome,
)
from contree.app.content.project_content import ProjectContent
from contree.app.content.project_environment import ProjectEnvironment
from contree.app.reads import OperationReads, OperationRow
from contree.app.request_run import StdinOrder
from contree.app.sealing import Sealer
from contree.domain.environment import masked, secrets_of
from contree.domain.errors import (
    InstanceEndedError,
    InvalidFieldError,
    InvalidTransitionError,
    NotFoundError,
    OutcomeUnknownError,
    TooEarlyError,
)
from contree.domain.instance import OUTPUT_BYTES_DEFAULT, Stdin
from contree.domain.operation import Kind, Status
from contree.domain.subprocess import SubprocessSpec
from contree.domain.token import Permission

ANSWER_WAIT_S = 25.0
"""How long a spawn or signal may take. Proxies give up after 60 s; then nobody knows."""

STDIN_WAIT_S = 280.0
"""How long a writer waits for a process that does not read. The published CLI gives up its input
at the first refusal, and waits 300 s for an answer.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubprocessOrder:
    """A further process as the client asks for it; empty or None takes the instance's own.

    secret_env  as RunOrder has it
    """

    command: str
    args: tuple[str, ...] = ()
    shell: bool = False
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    secret_env: frozenset[str] = frozenset()
    cwd: str = ""
    uid: int = 0
    gid: int = 0
    stdin: StdinOrder | None = None
    output_bytes_max: int = OUTPUT_BYTES_DEFAULT


class SteerInstance:
    """All methods raise NotFoundError (no such operation), PermissionMissingError (that of the
    instance itself), InvalidTransitionError (not a running instance), TooEarlyError (nothing was
    done; try again), OutcomeUnknownError and UnavailableError.
    """

    def __init__(
        self,
        *,
        control: GuestControl,
        operations: OperationReads,
        content: ProjectContent,
        environment: ProjectEnvironment,
        sealer: Sealer,
    ) -> None:
        self._control = control
        self._operations = operations
        self._content = content
        self._environment = environment
        self._sealer = sealer

    async def spawn(self, caller: Caller, operation_id: UUID, order: SubprocessOrder) -> int:
        """Start a process in the instance's guest and return its number, 2 or more.

        Raises InvalidFieldError also when the guest cannot start it.
        """
        row = await self._instance(caller, operation_id)
        _require_running(row)
        secrets = secrets_of(order.env, order.secret_env)
        asked = _asked(order)
        asked.check()  # the real values, before the secrets are masked
        spec = replace(
            asked,
            env=masked(order.env, secrets),
            env_digests={n: self._sealer.digest(v.encode()) for n, v in secrets.items()},
            stdin=await self._stored(caller, order.stdin),
        )
        answer = await self._send(
            caller,
            operation_id,
            Action.SPAWN,
            facts=(await self._environment.sealed(caller.project_id, spec)).to_fact(),
            payload=self._sealer.seal(orjson.dumps(secrets)) if secrets else b"",
        )
        if answer.outcome is Outcome.ENDED:
            raise InvalidTransitionError(f"operation {operation_id}: its command has ended")
        return answer.spid

    async def write_stdin(
        self, caller: Caller, operation_id: UUID, spid: int, data: bytes, *, close: bool
    ) -> None:
        """Append to the standard input of a process, and end it with `close`.

        Returns when all bytes are accepted. Raises NotFoundError (no such live process),
        InvalidTransitionError (it takes no input) and InstanceEndedError.
        """
        row = await self._instance(caller, operation_id)
        if row.status.is_terminal:
            raise InstanceEndedError(f"operation {operation_id} has ended as {row.status.value}")
        _require_running(row)
        for at in range(0, max(1, len(data)), PAYLOAD_BYTES_MAX):
            piece = data[at : at + PAYLOAD_BYTES_MAX]
            is_last = at + PAYLOAD_BYTES_MAX >= len(data)
            try:
                answer = await self._send(
                    caller,
                    operation_id,
                    Action.STDIN,
                    spid=spid,
                    facts={"close": close and is_last},
                    payload=piece,
                )
            except TooEarlyError as error:
                if at:  # what came before is there already
                    raise OutcomeUnknownError(
                        f"the first {at} bytes were written, the rest was not"
                    ) from error
                raise
            if answer.outcome is Outcome.ENDED:
                raise InstanceEndedError(f"operation {operation_id}: its command has ended")

    async def signal(self, caller: Caller, operation_id: UUID, spid: int, number: int) -> None:
        """Send signal `number` (1..64) to the process group. Raises NotFoundError also when the
        process does not live (any more).
        """
        row = await self._instance(caller, operation_id)
        _require_running(row)
        answer = await self._send(
            caller, operation_id, Action.SIGNAL, spid=spid, facts={"signal": number}
        )
        if answer.outcome is Outcome.ENDED:
            raise NotFoundError("live process", spid)

    async def _instance(self, caller: Caller, operation_id: UUID) -> OperationRow:
        row = await self._operations.get(caller.project_id, operation_id)
        if row is None:
            raise NotFoundError("operation", operation_id)
        if row.kind is not Kind.INSTANCE:
            raise InvalidTransitionError(f"operation {operation_id} is an import, not an instance")
        disposable = bool(row.request["disposable"])
        caller.require(Permission.SPAWN_DISPOSABLE if disposable else Permission.SPAWN)
        return row

    async def _stored(self, caller: Caller, order: StdinOrder | None) -> Stdin | None:
        if order is None:
            return None
        stored = await self._content.put_bytes(caller.project_id, order.data)
        return Stdin(
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            encoding=order.encoding,
            close=order.close,
        )

    async def _send(
        self,
        caller: Caller,
        operation_id: UUID,
        action: Action,
        *,
        facts: Mapping[str, object],
        spid: int = 0,
        payload: bytes = b"",
    ) -> ControlAnswer:
        """Send and return an answer that is DONE or ENDED; raise for all others."""
        command = GuestCommand(
            operation_id=operation_id,
            action=action,
            spid=spid,
            facts=facts,
            payload=payload,
            actor=caller.actor,
            request_id=caller.request_id,
        )
        within_s = STDIN_WAIT_S if action is Action.STDIN else ANSWER_WAIT_S
        answer = await self._control.send(command, within_s=within_s)
        match answer.outcome:
            case Outcome.DONE | Outcome.ENDED:
                return answer
            case Outcome.NOT_READY:
                raise TooEarlyError(f"operation {operation_id}: its guest is not ready yet")
            case Outcome.BUSY:
                raise TooEarlyError(f"process {spid}: what was sent before is not taken up yet")
            case Outcome.NO_PROCESS:
                raise NotFoundError("live process", spid)
            case Outcome.STDIN_CLOSED:
                raise InvalidTransitionError(f"standard input of process {spid} is closed")
            case Outcome.REFUSED:
                if answer.field:
                    raise InvalidFieldError(answer.field, answer.text)
                raise InvalidTransitionError(answer.text)
            case Outcome.UNKNOWN:
                raise OutcomeUnknownError(
                    f"operation {operation_id}: the guest gave no answer; it may have been done"
                )


def _asked(order: SubprocessOrder) -> SubprocessSpec:
    return SubprocessSpec(
        command=order.command,
        args=order.args,
        shell=order.shell,
        env=order.env,
        cwd=order.cwd,
        uid=order.uid,
        gid=order.gid,
        output_bytes_max=order.output_bytes_max,
    )


def _require_running(row: OperationRow) -> None:
    if row.status is Status.PENDING:
        raise TooEarlyError(f"operation {row.operation_id}: no worker has taken it yet")
    if not row.status.is_running:
        raise InvalidTransitionError(
            f"operation {row.operation_id} has ended as {row.status.value}"
        )
