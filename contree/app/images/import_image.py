"""Carry out an import: pull, store the layers, record the image and move its tag."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from contree.app.conclude import Conclude
from contree.app.content.project_environment import Inherited, ProjectEnvironment
from contree.app.event_log import EventLog
from contree.app.images.image_source import Credentials, ImageSource, PulledImage
from contree.app.images.layer_store import IMPORTED_BYTES_MAX, Layer, LayerStore
from contree.app.images.tag_images import pointed_tag
from contree.app.outages import Outages
from contree.app.sealing import Sealer
from contree.domain.aggregate import Aggregate
from contree.domain.context import Context
from contree.domain.errors import (
    ContentErasedError,
    EventTooLargeError,
    InvalidFieldError,
    OperationFailure,
)
from contree.domain.image import Image, imported_image_id
from contree.domain.operation import Operation

EXPANSION_RATIO_MAX = 300
EXPANSION_FREE_BYTES = 1024**3
"""An image may expand to so many times its compressed size, and to EXPANSION_FREE_BYTES however
small that is: a `lastlog` of zeros, which useradd makes for a large uid, expands 1,000 times
(deflate's limit) and is found in real images."""


def uncompressed_bytes_max(packed_bytes: int) -> int:
    """How large the layers of an image may be together, uncompressed."""
    return min(IMPORTED_BYTES_MAX, max(EXPANSION_FREE_BYTES, EXPANSION_RATIO_MAX * packed_bytes))


class ImportImage:
    """The worker's side of an import."""

    def __init__(
        self,
        *,
        log: EventLog,
        source: ImageSource,
        layers: LayerStore,
        environment: ProjectEnvironment,
        sealer: Sealer,
        conclude: Conclude,
        outages: Outages,
    ) -> None:
        self._log = log
        self._source = source
        self._layers = layers
        self._environment = environment
        self._sealer = sealer
        self._conclude = conclude
        self._outages = outages

    async def execute(self, operation: Operation) -> None:
        """Bring the assigned `operation` to its end. Cancelling leaves it running in the log.

        So do UnavailableError, when something was away for too long, and StorageFullError: this
        host has no room for the image.
        """
        try:
            await self._execute(operation)
        except TimeoutError:
            await self._conclude.fail(
                operation, f"timeout: the import took longer than {operation.timeout_s} s"
            )
        except (
            OperationFailure,
            InvalidFieldError,
            ContentErasedError,
            EventTooLargeError,
        ) as failure:
            await self._conclude.fail(operation, str(failure))

    async def _execute(self, operation: Operation) -> None:
        url = operation.registry_url
        if url is None:
            raise OperationFailure("the operation is not an import")
        await self._conclude.started(operation, registry_url=url)
        credentials = await self._outages.waited_out(
            f"operation {operation.id}: its password", partial(self._credentials, operation)
        )
        # What is timed is the work, not what it may have to wait for in the log.
        async with asyncio.timeout(operation.timeout_s):
            pulled, stored = await self._pull(operation, url, credentials)
        await self._record(operation, pulled, stored)

    async def _pull(
        self, operation: Operation, url: str, credentials: Credentials | None
    ) -> tuple[PulledImage, Sequence[Layer]]:
        async with self._source.pull(
            url, credentials=credentials, timeout_s=operation.timeout_s
        ) as pulled:
            stored: list[Layer] = []
            left_bytes = uncompressed_bytes_max(sum(one.packed_bytes for one in pulled.layers))
            for layer in pulled.layers:
                stored.append(
                    await self._layers.add_imported(
                        layer.blob, diff_id=layer.diff_id, bytes_max=left_bytes
                    )
                )
                left_bytes -= stored[-1].size_bytes
            # Made mountable now: a layer that cannot be is a failed import, not a failed run.
            await self._layers.mount_plan([layer.diff_id for layer in stored])
        return pulled, stored

    async def _credentials(self, operation: Operation) -> Credentials | None:
        if operation.username is None:
            return None
        sealed = await self._log.sealed(operation.id)
        if sealed is None:
            raise OperationFailure("the registry password is gone, ask for the import again")
        return Credentials(username=operation.username, password=self._sealer.open(sealed).decode())

    async def _record(
        self, operation: Operation, pulled: PulledImage, stored: Sequence[Layer]
    ) -> None:
        image_id = imported_image_id(operation.project_id, pulled.config_digest)
        size_bytes = sum(layer.size_bytes for layer in stored)

        async def decide(current: Operation, context: Context) -> Sequence[Aggregate]:
            appended: list[Aggregate] = []
            if await self._log.load(Image, image_id) is None:
                environment = await self._environment.recorded(
                    current.project_id, Inherited(env=pulled.env, preserved_env={})
                )
                appended.append(
                    Image.imported(
                        context,
                        operation_id=current.id,
                        registry_url=operation.registry_url or "",
                        manifest_digest=pulled.manifest_digest,
                        config_digest=pulled.config_digest,
                        layers=[layer.diff_id for layer in stored],
                        environment=environment,
                        workdir=pulled.workdir,
                        size_bytes=size_bytes,
                    )
                )
            if operation.tag is not None:
                appended.append(
                    await pointed_tag(self._log, context, name=operation.tag, image_id=image_id)
                )
            current.succeed(
                context,
                result_image_id=image_id,
                result_tag=operation.tag,
                image_size_bytes=size_bytes,
            )
            return appended

        await self._conclude.conclude(operation, decide)
