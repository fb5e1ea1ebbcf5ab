"""Pulls images from registries (app.images.image_source.ImageSource).

Each pull has a directory of its own, which goes when it ends. The HTTP client is imported with the
first pull: a worker that runs commands only does without its memory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from contree.adapters.registry.addresses import AddressPolicy
from contree.adapters.registry.reference import parse_reference
from contree.app.images.image_source import Credentials, PulledImage
from contree.domain.errors import RegistryFailure

IMAGE_BYTES_MAX = 32 * 1024**3
"""Compressed. Bounds what a registry can make this worker write before anything is checked."""
PRIVATE_PREFIX = "pull-"


class RegistryImageSource:
    """An ImageSource on OCI registries.

    work_dir         of this worker alone, made when absent; holds each pull's private directory
    policy           which addresses may be dialled
    image_bytes_max  bound on the compressed image
    """

    def __init__(
        self,
        work_dir: Path,
        policy: AddressPolicy,
        *,
        image_bytes_max: int = IMAGE_BYTES_MAX,
    ) -> None:
        self._work_dir = work_dir
        self._policy = policy
        self._image_bytes_max = image_bytes_max

    def check_url(self, url: str) -> str:
        """See ImageSource."""
        return parse_reference(url).url

    def sweep(self) -> None:
        """Remove what a killed predecessor left in `work_dir`. Not while pulls are under way."""
        for leftover in self._work_dir.glob(f"{PRIVATE_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @asynccontextmanager
    async def pull(
        self, url: str, *, credentials: Credentials | None, timeout_s: float
    ) -> AsyncIterator[PulledImage]:
        """See ImageSource."""
        from contree.adapters.registry.pull import pull_image

        reference = parse_reference(url)
        self._work_dir.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=PRIVATE_PREFIX, dir=self._work_dir))
        try:
            yield await pull_image(
                reference,
                private,
                credentials=_given(credentials),
                policy=self._policy,
                bytes_max=self._image_bytes_max,
                timeout_s=timeout_s,
            )
        finally:
            # A few hundred files at most: not worth a thread that a cancellation could outrun.
            shutil.rmtree(private, ignore_errors=True)


def _given(credentials: Credentials | None) -> Credentials | None:
    """None for credentials that say nothing."""
    if credentials is None or not (credentials.username or credentials.password):
        return None
    if ":" in credentials.username:
        raise RegistryFailure("registry.credentials.username: must not contain ':'")
    return credentials
