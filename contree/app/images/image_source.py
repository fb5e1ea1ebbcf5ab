"""Where images come from: OCI registries. Implemented by adapters.registry."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """For a registry. Never logged, never on a command line."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledLayer:
    """One layer as fetched: a file of `packed_bytes`, compressed or not, that lives as long as the
    pull. Its content says how it is compressed; what a manifest says of that is often wrong.
    """

    blob: Path
    packed_bytes: int
    diff_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledImage:
    """An image as fetched. `layers` bottom to top; `config_digest` is the OCI image id."""

    manifest_digest: str
    config_digest: str
    env: Mapping[str, str]
    workdir: str
    layers: tuple[PulledLayer, ...]


class ImageSource(Protocol):
    """Pulls images."""

    def check_url(self, url: str) -> str:
        """Return the canonical reference `docker://host/repository:tag` (or `@digest`).

        Raises InvalidFieldError naming `registry.url`.
        """
        ...

    def pull(
        self, url: str, *, credentials: Credentials | None, timeout_s: float
    ) -> AbstractAsyncContextManager[PulledImage]:
        """Fetch an image into a private directory that goes when the context ends.

        Raises RegistryFailure (unreachable, refused, absent, damaged, too slow) with a text for
        the client that holds no secret.
        """
        ...
