"""Run what was recorded once more: the same command, image and inputs, as an operation of its own.

Everything comes out of the log and the project's content, but for the secret values of environment
variables: those were destroyed when the run ended, and are proved equal by their recorded digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

import orjson

from contree.app.access import Requester
from contree.app.clock import Clock, IdSource
from contree.app.content.project_content import ProjectContent
from contree.app.content.project_environment import ProjectEnvironment
from contree.app.event_log import EventLog
from contree.app.pending_bound import PendingBound
from contree.app.reads import FileReads, ImageReads
from contree.app.sealing import Sealer
from contree.domain.errors import (
    InvalidFieldError,
    InvalidTransitionError,
    NotFoundError,
)
from contree.domain.image import require_depth_below_limit
from contree.domain.instance import InstanceSpec
from contree.domain.operation import Operation, Status
from contree.domain.token import Permission


class RequestReplay:
    """Turns a run that has ended into a pending one."""

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

    async def request(
        self,
        requester: Requester,
        original_id: UUID,
        *,
        secrets: Mapping[str, str] | None = None,
        image_id: UUID | None = None,
    ) -> UUID:
        """Return the id of the new operation; never waits for it.

        secrets   values of the variables that the log holds masked, every one of them
        image_id  run on this image instead of the recorded one: the next step of a chain

        Raises NotFoundError (operation, image), InvalidTransitionError (an import, not ended, or
        cancelled), InvalidFieldError (`env`: a secret is missing or another one; `args`, `files`,
        `stdin`: content is no longer kept), LimitExceededError (the image's depth),
        PermissionMissingError, ContentErasedError and QueueFullError.
        """
        original = await self._log.load(Operation, original_id)
        if original is None or original.project_id != requester.project_id:
            raise NotFoundError("operation", original_id)
        spec = replayable(original)
        requester.require(Permission.SPAWN_DISPOSABLE if spec.disposable else Permission.SPAWN)
        if image_id is not None:
            spec = replace(spec, image_id=image_id)
        spec = await self._opened(requester.project_id, spec)
        await self._check_inputs(requester.project_id, spec)
        sealed = self._sealed(spec, secrets or {})
        await self._pending.require_room(requester.project_id)
        operation = Operation.request_instance(
            requester.context(self._clock.now()),
            operation_id=self._ids.new_id(),
            spec=await self._environment.sealed(requester.project_id, spec),
            replay_of=original_id,
        )
        await self._log.append(operation, seal={} if sealed is None else {operation.id: sealed})
        return operation.id

    async def _opened(self, project_id: UUID, spec: InstanceSpec) -> InstanceSpec:
        try:
            return await self._environment.opened(project_id, spec)
        except NotFoundError as error:
            raise InvalidFieldError("args", "are no longer kept: no replay") from error

    async def _check_inputs(self, project_id: UUID, spec: InstanceSpec) -> None:
        image = await self._images.get(project_id, spec.image_id)
        if image is None:
            raise NotFoundError("image", spec.image_id)
        if not spec.disposable:
            require_depth_below_limit(image.image_id, image.depth)
        wanted = {placement.file_id for placement in spec.files.values()}
        rows = await self._files.many(project_id, tuple(wanted)) if wanted else {}
        for path, placement in spec.files.items():
            row = rows.get(placement.file_id)
            if row is None or not await self._content.has(project_id, row.sha256):
                raise InvalidFieldError(f"files['{path}']", "is no longer kept: no replay")
        stdin = spec.stdin
        if stdin is not None and not await self._content.has(project_id, stdin.sha256):
            raise InvalidFieldError("stdin", "is no longer kept: no replay")

    def _sealed(self, spec: InstanceSpec, secrets: Mapping[str, str]) -> bytes | None:
        """Seal `secrets`, which must be the very values that the run had."""
        if missing := sorted(spec.env_digests.keys() - secrets.keys()):
            names = ", ".join(missing)
            raise InvalidFieldError(
                "env", f"{names} had secret values, which are not kept: send them"
            )
        for name, value in secrets.items():
            expected = spec.env_digests.get(name)
            if expected is None:
                raise InvalidFieldError(f"env.{name}", "was no secret of this run, leave it out")
            if self._sealer.digest(value.encode()) != expected:
                raise InvalidFieldError(f"env.{name}", "is not the value that the run had")
        return self._sealer.seal(orjson.dumps(dict(secrets))) if secrets else None


def replayable(original: Operation) -> InstanceSpec:
    """Return what to run again. Raises InvalidTransitionError when there is nothing to compare."""
    if original.spec is None:
        raise InvalidTransitionError(
            f"operation {original.id} is an import: only runs can be replayed"
        )
    if original.status not in {Status.SUCCESS, Status.FAILED}:
        raise InvalidTransitionError(
            f"operation {original.id} is {original.status.value}: "
            "only a run that has ended by itself can be replayed"
        )
    return original.spec
