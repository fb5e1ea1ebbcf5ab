"""What runs on an image is described by, as events carry it: sealed, and bounded.

values of variables   sealed under the project's key. Names stay readable, unset ones and masked
                      secrets too; all other values of one environment are one sealed value
                      beside it, so that an environment costs one decryption
what is long          in the content store, in the event its digest (domain.spec_body)
"""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson

from contree.app.content.project_content import ProjectContent
from contree.app.content.project_keys import Box, ProjectKeys
from contree.domain.environment import ERASED, MASKED, SEALED
from contree.domain.errors import ContentDamagedError, ContentErasedError, NotFoundError
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.instance import InstanceSpec
from contree.domain.spec_body import (
    INLINE_BYTES_MAX,
    Body,
    lengthened,
    long_fields,
    shortened,
)
from contree.domain.subprocess import SubprocessSpec

PURPOSE: Final = "environment"

_log = logging.getLogger(__name__)

Spec = TypeVar("Spec", InstanceSpec, SubprocessSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """The environment that an image hands down: imported, and stored by `preserve_env`."""

    env: Mapping[str, str]
    preserved_env: Mapping[str, str]


class ProjectEnvironment:
    """Seals and opens. Every method may raise UnavailableError."""

    def __init__(self, *, keys: ProjectKeys, content: ProjectContent) -> None:
        self._keys = keys
        self._content = content

    async def sealed(self, project_id: UUID, spec: Spec) -> Spec:
        """Return `spec` as events carry it. Raises ContentErasedError and StorageFullError."""
        plain = orjson.dumps(long_fields(spec))
        if len(plain) <= INLINE_BYTES_MAX:
            sealed = await self._values_sealed(project_id, spec)
            if len(orjson.dumps(long_fields(sealed))) <= INLINE_BYTES_MAX:
                return sealed
        return shortened(spec, await self._kept(project_id, plain))

    async def _values_sealed(self, project_id: UUID, spec: Spec) -> Spec:
        values = {n: v for n, v in spec.env.items() if v is not None and v != MASKED}
        if not values:
            return spec
        shown = {n: SEALED if n in values else v for n, v in spec.env.items()}
        return replace(spec, env=shown, env_sealed=_seal(await self._box(project_id), values))

    async def opened(self, project_id: UUID, spec: Spec) -> Spec:
        """Return `spec` whole and with its values.

        Raises ContentErasedError, and NotFoundError when retention has removed what is long.
        """
        if spec.body is not None:
            spec = lengthened(spec, await self._fetched(project_id, spec.body))
        if spec.env_sealed is None:
            return spec
        values = _open(await self._box(project_id), spec.env_sealed)
        return replace(spec, env={**spec.env, **values}, env_sealed=None)

    async def shown(self, project_id: UUID, spec: Spec) -> Spec:
        """As `opened`; without its content as it is recorded, with `<ERASED>` for each value."""
        try:
            return await self.opened(project_id, spec)
        except ContentErasedError:
            env = {n: ERASED if v == SEALED else v for n, v in spec.env.items()}
            return replace(spec, env=env, env_sealed=None)
        except (NotFoundError, ContentDamagedError):
            _log.exception("the description %s is lost in the content store", spec.body)
            return spec

    async def inherited(self, image: Image) -> Inherited:
        """Return what `image`, whose event records it, hands down. Raises ContentErasedError."""
        recorded = image.environment
        if recorded.body is not None:
            stored = await self._content.read_bytes(image.project_id, recorded.body.sha256)
            return Inherited(**orjson.loads((await self._box(image.project_id)).open(stored)))
        if recorded.preserved_env_sealed is None:
            return Inherited(env=recorded.env, preserved_env=recorded.preserved_env)
        values = _open(await self._box(image.project_id), recorded.preserved_env_sealed)
        return Inherited(env=recorded.env, preserved_env={**recorded.preserved_env, **values})

    async def recorded(self, project_id: UUID, inherited: Inherited) -> RecordedEnvironment:
        """Return what an image's event carries. Raises ContentErasedError and StorageFullError.

        What is long is sealed before it is content: sealed differently each time, it is never equal
        to what some run wrote or was given, and retention of that never takes it away.
        """
        values = inherited.preserved_env
        carried = RecordedEnvironment(
            env=inherited.env,
            preserved_env=dict.fromkeys(values, SEALED),
            preserved_env_sealed=_seal(await self._box(project_id), values) if values else None,
        )
        if len(orjson.dumps(carried)) <= INLINE_BYTES_MAX:
            return carried
        sealed = (await self._box(project_id)).seal(orjson.dumps(inherited))
        return RecordedEnvironment(body=await self._kept(project_id, sealed))

    async def _kept(self, project_id: UUID, data: bytes) -> Body:
        stored = await self._content.put_bytes(project_id, data)
        return Body(sha256=stored.sha256, size_bytes=stored.size_bytes)

    async def _fetched(self, project_id: UUID, body: Body) -> dict[str, Any]:
        fields: dict[str, Any] = orjson.loads(
            await self._content.read_bytes(project_id, body.sha256)
        )
        return fields

    async def _box(self, project_id: UUID) -> Box:
        return (await self._keys.cipher(project_id)).box(PURPOSE)


def _seal(box: Box, values: Mapping[str, str]) -> str:
    return b64encode(box.seal(orjson.dumps(dict(values)))).decode()


def _open(box: Box, sealed: str) -> dict[str, str]:
    values: dict[str, str] = orjson.loads(box.open(b64decode(sealed)))
    return values
