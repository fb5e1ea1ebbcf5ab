"""Every deliberate error, with the stable code an operator or a client may rely on.

Three kinds, never mixed: a *refusal* (the client asked for what may not be; all classes here but
the last group), an *outcome* (the command exited 3: data, not an error), and a *failure* of an
operation (`OperationFailure`: we could not run it; it ends as FAILED with this text).
"""

from __future__ import annotations

from datetime import datetime


class ContreeError(Exception):
    """Root of the tree; `code` is public and stable, `str(error)` is for people."""

    code = "error"


class InvalidFieldError(ContreeError):
    """A field of the request is wrong. `field` names it, the message says what would be right."""

    code = "invalid_field"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class EncodedBodyError(InvalidFieldError):
    """The body is compressed on its way; what it would become has no bound."""

    code = "encoded_body"


class UnauthenticatedError(ContreeError):
    """No token, an unknown, expired or revoked one, or a project that is not the token's."""

    code = "unauthenticated"


class PermissionMissingError(ContreeError):
    """The token lacks a permission."""

    code = "permission_missing"

    def __init__(self, permission: str) -> None:
        super().__init__(f"the token lacks the permission '{permission}'")
        self.permission = permission


class NotFoundError(ContreeError):
    """The thing does not exist in this project; also when another project has it."""

    code = "not_found"

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(f"{kind} '{name}' was not found")
        self.kind = kind
        self.name = name


class WrongFileTypeError(ContreeError):
    """The path exists in the image but is not of the type the call needs."""

    code = "wrong_file_type"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"path: '{path}' {problem}")
        self.path = path


class InvalidTransitionError(ContreeError):
    """The operation is not in a state that allows this."""

    code = "invalid_transition"


class ConflictError(ContreeError):
    """Somebody else appended to the same aggregate first; nothing was written. Load and retry."""

    code = "conflict"


class LimitExceededError(ContreeError):
    """Something from outside passed a named bound."""

    code = "limit_exceeded"

    def __init__(self, limit: str, problem: str) -> None:
        super().__init__(f"{limit}: {problem}")
        self.limit = limit


class UploadInterruptedError(ContreeError):
    """The request body ended before it was whole; nothing was kept."""

    code = "upload_interrupted"


class EventTooLargeError(ContreeError):
    """A defect of ours: what should be bounded or content was to become part of an event."""

    code = "event_too_large"

    def __init__(self, topic: str, size_bytes: int, *, bytes_max: int) -> None:
        super().__init__(f"an event {topic} of {size_bytes} bytes is refused, at most {bytes_max}")


class StorageFullError(ContreeError):
    """The store has no room; nothing half-written was kept."""

    code = "storage_full"


class QueueFullError(ContreeError):
    """As many operations of the project wait as may; nothing was recorded."""

    code = "queue_full"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} operations of this project wait already, which is the most "
            "(pending_max_per_project): cancel some, or ask again when some have begun"
        )


class UnavailableError(ContreeError):
    """A part we need (the database) is not there at the moment; the call may be repeated."""

    code = "unavailable"


class TooEarlyError(ContreeError):
    """Not possible yet, and nothing was done; the same call may well succeed a moment later."""

    code = "too_early"


class InstanceEndedError(ContreeError):
    """The instance has ended: there is no process left that could take this."""

    code = "instance_ended"


class ContentErasedError(ContreeError):
    """The content was destroyed, on purpose and on record; the facts in the log remain."""

    code = "content_erased"

    def __init__(self, at: datetime) -> None:
        super().__init__(f"the project's content was erased on {at:%Y-%m-%d %H:%M:%S} UTC")
        self.at = at


class ContentExpiredError(ContreeError):
    """The content of an operation is older than its project keeps content; the facts remain."""

    code = "content_expired"

    def __init__(self, cut: datetime) -> None:
        super().__init__(
            "the project's retention removed the content of operations that ended before "
            f"{cut:%Y-%m-%d %H:%M:%S} UTC"
        )
        self.cut = cut


class ContentDamagedError(ContreeError):
    """Stored content does not open under its project's key: damaged, or exchanged."""

    code = "content_damaged"


class OutcomeUnknownError(ContreeError):
    """The guest did not confirm in time; it may have been done, so do not blindly repeat it."""

    code = "outcome_unknown"


class OperationFailure(ContreeError):  # noqa: N818 - the field's word is failure, not error
    """An operation could not be performed; it ends as FAILED with this text.

    `retryable` says that another attempt from the same immutable image may well succeed
    (the machine failed, not the request).
    """

    code = "operation_failure"

    def __init__(self, problem: str, *, retryable: bool = False) -> None:
        super().__init__(problem)
        self.retryable = retryable


class GuestFailure(OperationFailure):
    """The guest or its QEMU did not do its part: no boot, panic, silence, protocol breach.

    `host_full`: it was stopped because its host has no room for what it writes.
    """

    code = "guest_failure"

    def __init__(self, problem: str, *, retryable: bool = False, host_full: bool = False) -> None:
        super().__init__(problem, retryable=retryable)
        self.host_full = host_full


class RegistryFailure(OperationFailure):
    """The registry was unreachable, refused us, or does not have the image."""

    code = "registry_failure"


class LayerRefused(OperationFailure):
    """A layer or delta breaks a rule: a name with `..`, a digest that differs, a size bound."""

    code = "layer_refused"
