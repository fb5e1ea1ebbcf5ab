"""Commands for a running guest: sent by the API, received by the worker that holds the operation.

    API                                      worker
    send --> (waits in order) --> commands() --> start() --> done in the guest --> answer()
      `----------------- the answer, or a deadline ------------------'

The two are different processes; the carrier is the database. This is coordination, not history:
what was done is recorded by the worker in the log. Implemented by adapters.postgres.guest_control;
tests/contracts/test_guest_control.py holds it and the fake to this text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

COMMANDS_WAITING_MAX = 64
"""Commands of one operation that may wait at once; who comes later waits outside."""

PAYLOAD_BYTES_MAX = 1024 * 1024
"""Bytes that one command may carry; longer input is sent in pieces."""

ANSWER_TEXT_CHARS_MAX = 1000


class Action(StrEnum):
    SPAWN = "spawn"
    STDIN = "stdin"
    SIGNAL = "signal"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestCommand:
    """What a client wants done in a guest.

    spid      the process it is about; 0 for SPAWN
    facts     JSON: SubprocessSpec.to_fact | {"close": bool} | {"signal": int}
    payload   SPAWN: sealed secret environment, or empty; STDIN: the bytes
    actor     who asked, in which request: for the log
    """

    operation_id: UUID
    action: Action
    spid: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    actor: str
    request_id: str


class Outcome(StrEnum):
    """What became of a command.

    DONE           the guest has done it
    NOT_READY      no worker takes commands for the operation yet; nothing was done
    BUSY           too many wait before it, or its turn did not come in time; nothing was done
    ENDED          the main command has ended; nothing was done
    NO_PROCESS     no live process has this number
    STDIN_CLOSED   its standard input takes nothing (any more)
    REFUSED        the guest could not start it, or a bound was passed; `text` says why
    UNKNOWN        it was begun and no answer came
    """

    DONE = "done"
    NOT_READY = "not_ready"
    BUSY = "busy"
    ENDED = "ended"
    NO_PROCESS = "no_process"
    STDIN_CLOSED = "stdin_closed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAnswer:
    """The end of a command. `spid` is the new process's for SPAWN; `field` may be to blame."""

    outcome: Outcome
    spid: int = 0
    text: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedCommand:
    """A command as the worker gets it, without its payload. Numbers rise as they were sent."""

    number: int
    command: GuestCommand


class Inbox(Protocol):
    """The worker's end, for one operation."""

    def commands(self) -> AsyncIterator[ReceivedCommand]:
        """Yield commands in the order in which they were sent; never ends by itself."""
        ...

    async def start(self, number: int) -> bytes | None:
        """Begin a command and return its payload; None when its sender has taken it back."""
        ...

    async def answer(self, number: int, answer: ControlAnswer) -> None:
        """End a command; its sender learns at once. It is forgotten here."""
        ...


class GuestControl(Protocol):
    """Carries commands to guests. Every method raises UnavailableError without its carrier."""

    async def send(self, command: GuestCommand, *, within_s: float) -> ControlAnswer:
        """Send and wait for the answer, `within_s` at most.

        Commands of one operation are received in the order in which calls of `send` returned or
        were waiting; one sender that waits for each answer has its own order.
        A command that was not started in time is taken back: BUSY says that nothing was done.
        """
        ...

    def open(self, operation_id: UUID) -> AbstractAsyncContextManager[Inbox]:
        """Take commands for an operation. On exit, what was not answered is answered ENDED."""
        ...
