"""Values of environment variables, sealed under the project's key wherever events carry them.

Names stay readable, unset ones and masked secrets too; all other values of one environment are one
sealed value beside it, so that an environment costs one decryption and none costs nothing.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeVar
from uuid import UUID

import orjson

from contree.app.content.project_keys import Box, ProjectKeys
from contree.domain.environment import ERASED, MASKED, SEALED
from contree.domain.errors import ContentErasedError
from contree.domain.image import Image, PreservedEnvironment
from contree.domain.instance import InstanceSpec
from contree.domain.subprocess import SubprocessSpec

PURPOSE: Final = "environment"

Spec = TypeVar("Spec", InstanceSpec, SubprocessSpec)


class ProjectEnvironment:
    """Seals and opens. Every method may raise UnavailableError."""

    def __init__(self, keys: ProjectKeys) -> None:
        self._keys = keys

    async def sealed(self, project_id: UUID, spec: Spec) -> Spec:
        """Return `spec` as events carry it. Raises ContentErasedError."""
        values = {n: v for n, v in spec.env.items() if v is not None and v != MASKED}
        if not values:
            return spec
        shown = {n: SEALED if n in values else v for n, v in spec.env.items()}
        return replace(spec, env=shown, env_sealed=_seal(await self._box(project_id), values))

    async def opened(self, project_id: UUID, spec: Spec) -> Spec:
        """Return `spec` with its values. Raises ContentErasedError."""
        if spec.env_sealed is None:
            return spec
        values = _open(await self._box(project_id), spec.env_sealed)
        return replace(spec, env={**spec.env, **values}, env_sealed=None)

    async def shown(self, project_id: UUID, spec: Spec) -> Spec:
        """As `opened`; once the project is erased, with `<ERASED>` for each value."""
        try:
            return await self.opened(project_id, spec)
        except ContentErasedError:
            env = {n: ERASED if v == SEALED else v for n, v in spec.env.items()}
            return replace(spec, env=env, env_sealed=None)

    async def preserved(self, image: Image) -> dict[str, str]:
        """Return what `preserve_env` stored in `image` itself. Raises ContentErasedError."""
        if image.preserved_env_sealed is None:
            return dict(image.preserved_env)
        values = _open(await self._box(image.project_id), image.preserved_env_sealed)
        return {**image.preserved_env, **values}

    async def preserved_sealed(
        self, project_id: UUID, values: Mapping[str, str]
    ) -> PreservedEnvironment:
        """Return what an image's event carries of `values`: the names, and all values sealed."""
        if not values:
            return PreservedEnvironment(env={})
        return PreservedEnvironment(
            env=dict.fromkeys(values, SEALED),
            sealed=_seal(await self._box(project_id), values),
        )

    async def _box(self, project_id: UUID) -> Box:
        return (await self._keys.cipher(project_id)).box(PURPOSE)


def _seal(box: Box, values: Mapping[str, str]) -> str:
    return b64encode(box.seal(orjson.dumps(dict(values)))).decode()


def _open(box: Box, sealed: str) -> dict[str, str]:
    values: dict[str, str] = orjson.loads(box.open(b64decode(sealed)))
    return values
