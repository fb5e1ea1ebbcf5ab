"""What goes wrong between us and a registry, in words for a client.

Only texts written here reach a client: a registry's own are anybody's, and addresses of its storage
may be signed. Each names the host that was asked.
"""

from __future__ import annotations

import ssl
from http import HTTPStatus

import aiohttp

from contree.domain.errors import RegistryFailure

PLAIN_HTTP = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
"""Reasons of OpenSSL when the other side answers a TLS greeting with plain text."""


def failure_of(error: Exception, host: str) -> RegistryFailure:
    """Return the failure that a connection's `error` means."""
    if isinstance(error, RegistryFailure):
        return error
    if isinstance(error.__cause__, RegistryFailure):  # from the resolver, through the connector
        return error.__cause__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return RegistryFailure(f"{host}: the registry's certificate is not trusted")
    if isinstance(error, aiohttp.ClientSSLError):
        reason = getattr(_ssl_error(error), "reason", None) or ""
        if reason in PLAIN_HTTP:
            return RegistryFailure(
                f"{host}: the registry speaks plain HTTP, which is allowed on loopback only"
            )
        return RegistryFailure(f"{host}: no TLS connection to the registry is possible")
    if isinstance(error, TimeoutError):
        return RegistryFailure(f"{host}: the registry stopped answering")
    if isinstance(error, aiohttp.ClientPayloadError):
        return RegistryFailure(f"{host}: the registry broke off in the middle of the image")
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return RegistryFailure(f"{host}: the registry cannot be reached")
    return RegistryFailure(f"{host}: the registry's answer is not valid HTTP")


def refusal_of(status: int, host: str, *, has_credentials: bool) -> RegistryFailure:
    """Return the failure that an answer with `status` means, whatever was asked for."""
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return RegistryFailure(
            f"{host}: the registry refused the credentials"
            if has_credentials
            else f"{host}: the registry wants credentials, or does not have this image"
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RegistryFailure(f"{host}: the registry limits the rate of pulls, try later")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return RegistryFailure(
            f"{host}: the registry answered with an error of its own ({status}), try later"
        )
    return RegistryFailure(f"{host}: the registry answered with the unexpected status {status}")


def _ssl_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = getattr(error, "os_error", None) or error.__cause__
    return error
