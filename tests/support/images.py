"""Images made of stored layers, recorded as an import would: no registry, no guest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid5

from contree.app.images.layer_store import Layer
from contree.bootstrap import Core
from contree.domain.context import Context
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.project import NAMESPACE


async def record_image(core: Core, project_id: UUID, layers: Sequence[Layer]) -> UUID:
    """Record an image of `layers`, bottom to top; return its id."""
    context = Context(actor="test", project_id=project_id, request_id="test", at=datetime.now(UTC))
    image = Image.imported(
        context,
        operation_id=uuid5(NAMESPACE, layers[-1].diff_id),
        registry_url="docker://localhost/stored:latest",
        manifest_digest=layers[0].diff_id,
        config_digest=layers[-1].diff_id,
        layers=[layer.diff_id for layer in layers],
        environment=RecordedEnvironment(),
        workdir="/",
        size_bytes=sum(layer.size_bytes for layer in layers),
    )
    await core.log.append(image)
    return image.id
