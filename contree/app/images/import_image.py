"""Carry out an import: pull, store the layers, record the image and move its tag."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from contree.app.conclude import Conclude
from contree.app.event_log import EventLog
from contree.app.images.image_source import Credentials, ImageSource, PulledImage
from contree.app.images.layer_store import Layer, LayerStore
from contree.app.images.tag_images import pointed_tag
from contree.app.outages import Outages
from contree.app.sealing import Sealer
from contree.domain.aggregate import Aggregate
from contree.domain.context import Context
from contree.domain.errors import InvalidFieldError, OperationFailure
from contree.domain.image import Image, imported_image_id
from contree.domain.operation import Operation


class ImportImage:
    """The worker's side of an import."""

    def __init__(
        self,
        *,
        log: EventLog,
        source: ImageSource,
        layers: LayerStore,
        sealer: Sealer,
        conclude: Conclude,
        outages: Outages,
    ) -> None:
        self._log = log
        self._source = source
        self._layers = layers
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
        except (OperationFailure, InvalidFieldError) as failure:
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
            stored = [
                await self._layers.add_imported(
                    layer.blob, media_type=layer.media_type, diff_id=layer.diff_id
                )
                for layer in pulled.layers
            ]
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
                appended.append(
                    self._image(context, current.id, pulled, stored, size_bytes, operation)
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

    def _image(
        self,
        context: Context,
        operation_id: UUID,
        pulled: PulledImage,
        stored: Sequence[Layer],
        size_bytes: int,
        operation: Operation,
    ) -> Image:
        return Image.imported(
            context,
            operation_id=operation_id,
            registry_url=operation.registry_url or "",
            manifest_digest=pulled.manifest_digest,
            config_digest=pulled.config_digest,
            layers=[layer.diff_id for layer in stored],
            env=pulled.env,
            workdir=pulled.workdir,
            size_bytes=size_bytes,
        )
