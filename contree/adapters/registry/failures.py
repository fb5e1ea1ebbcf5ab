"""What skopeo says, in words for a client.

Only texts written here reach a client: skopeo's own may hold signed addresses of a registry's
storage, and parts of it are the registry's, that is anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from contree.domain.errors import OperationFailure, RegistryFailure, StorageFullError

# In order: the first that matches counts, without regard to case. The words are those of skopeo
# 1.9 to 1.20 and of Go's net package.
_CAUSES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("invalid reference format",),
        "the installed skopeo does not understand this form of registry.url",
    ),
    (
        ("digest did not match", "blob.*does not match", "manifest digest.*does not match"),
        "the image is damaged: what the registry sent does not have its digest",
    ),
    (
        ("fetching blob.*(404|not found)", "blob unknown"),
        "the image is damaged: the registry lacks a part of it",
    ),
    (
        ("no image found in (manifest list|image index)",),
        "the image has no variant for linux/amd64",
    ),
    (
        ("manifest unknown", "name unknown", "reading manifest.*not found", "status code.*404"),
        "the registry does not have this image",
    ),
    (("toomanyrequests", "too many requests"), "the registry limits the rate of pulls, try later"),
    (("x509:", "certificate"), "the registry's certificate is not trusted"),
    (
        ("gave HTTP response to HTTPS client", "does not look like a TLS"),
        "the registry speaks plain HTTP, which is allowed on loopback only",
    ),
    (
        (
            *("connection refused", "no such host", "i/o timeout", "no route to host"),
            *("network is unreachable", "connection reset", "TLS handshake", "server misbehaving"),
            *("deadline exceeded", ": EOF"),
        ),
        "the registry cannot be reached",
    ),
    (("unexpected EOF",), "the registry broke off in the middle of the image"),
    (
        ("unexpected HTTP status", "internal server error", "bad gateway", "service unavailable"),
        "the registry answered with an error of its own, try later",
    ),
    (
        (
            *("no FSLayers", "unsupported manifest", "unsupported schema", "unmarshal"),
            *("invalid character", "parsing manifest"),
        ),
        "the image's manifest is not valid",
    ),
)
_REFUSED = (
    *("unauthorized", "authentication required", "invalid username/password"),
    *("access.*denied", r"\bdenied:"),
)
_SECRET = re.compile(r"\?[^\s\"']*|(?<=//)[^/\s\"'@]*@")


def failure_from(stderr: str, *, host: str, has_credentials: bool) -> OperationFailure:
    """Return the failure to raise for a skopeo that exited with an error."""
    if _says(stderr, _REFUSED):
        return RegistryFailure(
            f"{host}: the registry refused the credentials"
            if has_credentials
            else f"{host}: the registry wants credentials, or does not have this image"
        )
    for patterns, cause in _CAUSES:
        if _says(stderr, patterns):
            return RegistryFailure(f"{host}: {cause}")
    return RegistryFailure(f"{host}: the image could not be pulled, see the worker's log")


def storage_full_from(stderr: str) -> StorageFullError | None:
    """Return an error when this machine, not the registry, was the reason."""
    if "no space left on device" in stderr or "disk quota exceeded" in stderr:
        return StorageFullError("no room left for the image on this worker")
    return None


def for_log(stderr: str) -> str:
    """Return skopeo's words without the parts of addresses that may be secret."""
    return _SECRET.sub("…", stderr)


def _says(stderr: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, stderr, re.IGNORECASE) for pattern in patterns)
