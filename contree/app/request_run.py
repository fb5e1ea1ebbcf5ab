"""Accept a run: check everything that can be checked, record it, answer at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

import orjson

from contree.app.access import Caller
from contree.app.clock import Clock, IdSource
from contree.app.content.project_content import ProjectContent
from contree.app.content.project_environment import ProjectEnvironment
from contree.app.event_log import EventLog
from contree.app.limits import Limits
from contree.app.pending_bound import PendingBound
from contree.app.reads import FileReads, ImageReads, ImageRow
from contree.app.sealing import Sealer
from contree.domain.environment import masked, secrets_of
from contree.domain.errors import InvalidFieldError, NotFoundError
from contree.domain.image import require_depth_below_limit
from contree.domain.instance import (
    HOSTNAME_DEFAULT,
    MAX_LAYER_BYTES_MIN,
    OUTPUT_BYTES_DEFAULT,
    FilePlacement,
    InstanceSpec,
    Stdin,
)
from contree.domain.operation import Operation
from contree.domain.placement import normalised
from contree.domain.tag import parse_tag
from contree.domain.token import Permission

TAG_PREFIX = "tag:"


@dataclass(frozen=True, slots=True, kw_only=True)
class StdinOrder:
    """Initial standard input as sent, decoded. `encoding` is how it is echoed."""

    data: bytes
    encoding: str = "ascii"
    close: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """A run as the client asks for it; None takes the deployment's default.

    secret_env  names in `env` whose values are secrets, whatever they are called
    """

    image: str
    command: str
    args: tuple[str, ...] = ()
    shell: bool = False
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    secret_env: frozenset[str] = frozenset()
    cwd: str = ""
    uid: int = 0
    gid: int = 0
    hostname: str = HOSTNAME_DEFAULT
    stdin: StdinOrder | None = None
    timeout_s: int | None = None
    output_bytes_max: int = OUTPUT_BYTES_DEFAULT
    disposable: bool = False
    preserve_env: bool = False
    preserve_cwd: bool = False
    files: Mapping[str, FilePlacement] = field(default_factory=dict)
    max_layer_bytes: int | None = None
    networking: bool = True


class RequestRun:
    """Turns an order into a pending operation."""

    def __init__(
        self,
        *,
        log: EventLog,
        images: ImageReads,
        files: FileReads,
        content: ProjectContent,
        environment: ProjectEnvironment,
        sealer: Sealer,
        pending: PendingBound,
        clock: Clock,
        ids: IdSource,
        limits: Limits,
    ) -> None:
        self._log = log
        self._images = images
        self._files = files
        self._content = content
        self._environment = environment
        self._sealer = sealer
        self._pending = pending
        self._clock = clock
        self._ids = ids
        self._limits = limits

    async def request(self, caller: Caller, order: RunOrder) -> tuple[UUID, InstanceSpec]:
        """Return the operation's id and the normalised request. Never waits for capacity.

        Raises PermissionMissingError, InvalidFieldError, NotFoundError (image), ContentErasedError
        and QueueFullError.
        """
        caller.require(Permission.SPAWN_DISPOSABLE if order.disposable else Permission.SPAWN)
        secrets = secrets_of(order.env, order.secret_env)
        image = await self._resolve_image(caller, order.image)
        if not order.disposable:
            require_depth_below_limit(image.image_id, image.depth)
        spec = self._spec(order, image.image_id, secrets)
        replace(spec, env=order.env).check()  # the real values, before the secrets are masked
        await self._check_files_exist(caller, spec)
        await self._pending.require_room(caller.project_id)
        if order.stdin is not None:
            stored = await self._content.put_bytes(caller.project_id, order.stdin.data)
            stdin = Stdin(
                sha256=stored.sha256,
                size_bytes=stored.size_bytes,
                encoding=order.stdin.encoding,
                close=order.stdin.close,
            )
            spec = replace(spec, stdin=stdin)
        operation = Operation.request_instance(
            caller.context(self._clock.now()),
            operation_id=self._ids.new_id(),
            spec=await self._environment.sealed(caller.project_id, spec),
        )
        sealed = {operation.id: self._sealer.seal(orjson.dumps(secrets))} if secrets else None
        await self._log.append(operation, seal=sealed)
        return operation.id, spec

    async def _resolve_image(self, caller: Caller, reference: str) -> ImageRow:
        if reference.startswith(TAG_PREFIX):
            tag = parse_tag(reference.removeprefix(TAG_PREFIX), field="image")
            row = await self._images.by_tag(caller.project_id, tag)
        else:
            try:
                image_id = UUID(reference)
            except ValueError:
                raise InvalidFieldError(
                    "image", f"'{reference}' is neither a UUID nor 'tag:' and a tag"
                ) from None
            row = await self._images.get(caller.project_id, image_id)
        if row is None:
            raise NotFoundError("image", reference)
        return row

    def _spec(self, order: RunOrder, image_id: UUID, secrets: Mapping[str, str]) -> InstanceSpec:
        return InstanceSpec(
            image_id=image_id,
            command=order.command,
            args=order.args,
            shell=order.shell,
            env=masked(order.env, secrets),
            env_digests={n: self._sealer.digest(v.encode()) for n, v in secrets.items()},
            cwd=order.cwd,
            uid=order.uid,
            gid=order.gid,
            hostname=order.hostname,
            timeout_s=_bounded(
                "timeout",
                order.timeout_s,
                default=self._limits.instance_default_timeout_s,
                high=self._limits.instance_max_timeout_s,
            ),
            output_bytes_max=order.output_bytes_max,
            max_layer_bytes=_bounded(
                "resources_limits.max_layer_bytes",
                order.max_layer_bytes,
                default=self._limits.instance_max_layer_bytes,
                low=MAX_LAYER_BYTES_MIN,
                high=self._limits.instance_max_layer_bytes,
            ),
            disposable=order.disposable,
            preserve_env=order.preserve_env,
            preserve_cwd=order.preserve_cwd,
            files=normalised(order.files),
            networking=order.networking,
        )

    async def _check_files_exist(self, caller: Caller, spec: InstanceSpec) -> None:
        if not spec.files:
            return
        wanted = {placement.file_id for placement in spec.files.values()}
        known = await self._files.many(caller.project_id, tuple(wanted))
        for path, placement in spec.files.items():
            if placement.file_id not in known:
                raise InvalidFieldError(
                    f"files['{path}'].uuid",
                    f"file '{placement.file_id}' is not known, upload it with POST /v1/files",
                )


def _bounded(field_name: str, value: int | None, *, default: int, low: int = 1, high: int) -> int:
    if value is None:
        return default
    if not low <= value <= high:
        raise InvalidFieldError(field_name, f"is {value}, allowed are {low} to {high}")
    return value
