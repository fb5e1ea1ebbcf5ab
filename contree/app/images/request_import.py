"""Accept an import: check the request, seal the password, record it, answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from contree.app.access import Caller
from contree.app.clock import Clock, IdSource
from contree.app.event_log import EventLog
from contree.app.images.image_source import Credentials, ImageSource
from contree.app.limits import Limits
from contree.app.pending_bound import PendingBound
from contree.app.sealing import Sealer
from contree.domain.errors import InvalidFieldError
from contree.domain.operation import Operation
from contree.domain.tag import parse_tag
from contree.domain.token import Permission

CREDENTIAL_CHARS_MAX = 16 * 1024
USERNAME_CHARS_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOrder:
    """An import as the client asks for it."""

    registry_url: str
    credentials: Credentials | None = None
    tag: str | None = None
    timeout_s: int | None = None


class RequestImport:
    """Turns an order into a pending operation."""

    def __init__(
        self,
        *,
        log: EventLog,
        source: ImageSource,
        sealer: Sealer,
        pending: PendingBound,
        clock: Clock,
        ids: IdSource,
        limits: Limits,
    ) -> None:
        self._log = log
        self._source = source
        self._sealer = sealer
        self._pending = pending
        self._clock = clock
        self._ids = ids
        self._limits = limits

    async def request(self, caller: Caller, order: ImportOrder) -> UUID:
        """Return the operation's id.

        Raises PermissionMissingError, InvalidFieldError and QueueFullError.
        """
        caller.require(Permission.IMPORT)
        self._source.check_url(order.registry_url)
        if order.tag is not None:
            parse_tag(order.tag)
            caller.require(Permission.SET_IMAGE_TAG)
        timeout_s = order.timeout_s
        if timeout_s is None:
            timeout_s = self._limits.images_import_default_timeout_s
        if not 1 <= timeout_s <= self._limits.images_import_max_timeout_s:
            raise InvalidFieldError(
                "timeout",
                f"is {timeout_s}, allowed are 1 to {self._limits.images_import_max_timeout_s}",
            )
        # Older clients send two empty strings for an anonymous pull.
        credentials = order.credentials
        if credentials is not None and not (credentials.username or credentials.password):
            credentials = None
        if credentials is not None and (
            len(credentials.username) + len(credentials.password) > CREDENTIAL_CHARS_MAX
        ):
            raise InvalidFieldError(
                "registry.credentials", f"longer than {CREDENTIAL_CHARS_MAX} characters"
            )
        if credentials is not None and len(credentials.username) > USERNAME_CHARS_MAX:
            raise InvalidFieldError(
                "registry.credentials.username", f"longer than {USERNAME_CHARS_MAX} characters"
            )
        await self._pending.require_room(caller.project_id)
        operation = Operation.request_import(
            caller.context(self._clock.now()),
            operation_id=self._ids.new_id(),
            registry_url=order.registry_url,
            username=None if credentials is None else credentials.username,
            tag=order.tag,
            timeout_s=timeout_s,
        )
        sealed = (
            None
            if credentials is None
            else {operation.id: self._sealer.seal(credentials.password.encode())}
        )
        await self._log.append(operation, seal=sealed)
        return operation.id
