"""What a run leaves behind: an image of its own, the one it ran on, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from contree.app.content.project_environment import Inherited, ProjectEnvironment
from contree.app.images.layer_store import Layer
from contree.app.images.runnable_image import RunnableImage
from contree.domain.context import Context
from contree.domain.environment import environment_to_preserve
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.instance import InstanceSpec
from contree.domain.operation import Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """What an image's event says beside its layer; `changed`: it is not that of the image below.

    environment  None: it is that of the image below
    """

    environment: RecordedEnvironment | None
    workdir: str
    changed: bool


async def left_behind(
    environment: ProjectEnvironment,
    image: RunnableImage,
    spec: InstanceSpec,
    inherited: Inherited,
    request_env: Mapping[str, str | None],
) -> LeftBehind:
    """Return what the run described by `spec` leaves of its environment and directory.

    `inherited` is what `image` hands down; `request_env` has the real values of secrets.
    """
    workdir = (spec.cwd if spec.preserve_cwd else "") or image.workdir
    as_it_was = LeftBehind(environment=None, workdir=workdir, changed=workdir != image.workdir)
    if not spec.preserve_env:
        return as_it_was
    # Secrets never enter the log, so they are not kept in an image either.
    wanted = environment_to_preserve(
        image_env=inherited.env,
        preserved_env=inherited.preserved_env,
        request_env={n: v for n, v in request_env.items() if n not in spec.env_digests},
    )
    if not inherited.env and wanted == inherited.preserved_env:
        return as_it_was
    # What is preserved holds the imported ENV too, but for the names that were deleted.
    recorded = await environment.recorded(
        image.image.project_id, Inherited(env={}, preserved_env=wanted)
    )
    return LeftBehind(environment=recorded, workdir=workdir, changed=True)


def result_image(
    context: Context,
    operation: Operation,
    image: RunnableImage,
    left: LeftBehind,
    layer: Layer | None,
) -> Image | None:
    """Return the image, not yet appended when it is a new one; None for a disposable run."""
    if operation.spec is None or operation.spec.disposable:
        return None
    if layer is None and not left.changed:
        return image.image
    return image.image.committed(
        context,
        operation_id=operation.id,
        layer=None if layer is None else layer.diff_id,
        environment=left.environment,
        workdir=left.workdir,
        size_bytes=0 if layer is None else layer.size_bytes,
    )
