"""The bounds a deployment sets; `whoami` reports the API's ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Durations in seconds, sizes in bytes."""

    instance_max_timeout_s: int = 3600
    instance_default_timeout_s: int = 300
    instance_max_concurrency: int = 10
    instance_max_layer_bytes: int = 12 * 1024**3
    images_import_max_concurrency: int = 5
    images_import_max_timeout_s: int = 3600
    images_import_default_timeout_s: int = 300
    pending_max_per_project: int = 10_000
    request_body_bytes_max: int = 32 * 1024**2
    upload_bytes_max: int = 12 * 1024**3

    def as_reported(self) -> dict[str, int]:
        """The names and units that `GET /whoami` uses."""
        return {
            "instance_max_timeout": self.instance_max_timeout_s,
            "instance_max_concurrency": self.instance_max_concurrency,
            "instance_max_layer_bytes": self.instance_max_layer_bytes,
            "images_import_max_concurrency": self.images_import_max_concurrency,
            "images_import_max_timeout": self.images_import_max_timeout_s,
        }
