"""What a run needs to know of its image: also what the log and the read model have elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from contree.app.event_log import EventLog
from contree.app.reads import ImageReads
from contree.domain.errors import NotFoundError, OperationFailure
from contree.domain.image import Image, chain_id_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnableImage:
    """An image with its stack of layers and the environment that applies in it.

    environment  the image whose event records the environment: `image`, or one below it
    layers       diff_ids of the whole stack, bottom to top
    """

    image: Image
    environment: Image
    layers: Sequence[str]

    @property
    def workdir(self) -> str:
        return self.image.workdir


async def runnable_image(
    log: EventLog, images: ImageReads, project_id: UUID, image_id: UUID
) -> RunnableImage:
    """Read it. Three reads, at any depth.

    The stack comes from a read model, but what runs is what the log says: Raises OperationFailure
    when they differ, and NotFoundError.
    """
    layers = await images.stack(project_id, image_id)
    image = await _loaded(log, image_id)
    if chain_id_of(layers) != image.chain_id:
        raise OperationFailure(
            f"the read model shows other layers of image '{image_id}' than the log records: "
            "the operator must run 'contreed projections rebuild'"
        )
    own = image.environment_image_id == image.id
    environment = image if own else await _loaded(log, image.environment_image_id)
    return RunnableImage(image=image, environment=environment, layers=layers)


async def _loaded(log: EventLog, image_id: UUID) -> Image:
    image = await log.load(Image, image_id)
    if image is None:
        raise NotFoundError("image", image_id)
    return image
