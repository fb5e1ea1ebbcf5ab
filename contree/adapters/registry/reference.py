"""What `registry.url` may be, and the one form that everything behind it uses.

Grammar: distribution's reference (github.com/distribution/reference), with the registry's host
always named. Pure; it resolves no names and opens nothing.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from contree.domain.errors import InvalidFieldError

FIELD = "registry.url"
URL_CHARS_MAX = 1024
REPOSITORY_CHARS_MAX = 255
PORT_MAX = 65_535
DEFAULT_TAG = "latest"
DOCKER_HUB = "docker.io"
DOCKER_HUB_ALIASES = frozenset({"index.docker.io", "registry-1.docker.io"})
EXAMPLE = "docker://docker.io/library/busybox:latest"
SCHEMES = ("docker://", "oci://")
"""`oci://` is what an MCP client makes of the same reference; it means a registry, not a folder."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST = re.compile(
    rf"(?P<name>\[[0-9a-f:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::(?P<port>[0-9]{{1,5}}))?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryReference:
    """An image in a registry. Either `tag` or `digest` is set; the other is empty.

    host        name or address, with `:port` when it is not the scheme's own
    repository  path within the registry, Docker Hub's short names completed
    """

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def url(self) -> str:
        """The canonical form."""
        suffix = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"docker://{self.host}/{self.repository}{suffix}"

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is this very machine: only then may it speak plain HTTP."""
        match = _HOST.fullmatch(self.host)
        name = "" if match is None else match["name"].strip("[]")
        if name == "localhost":
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def parse_reference(url: str) -> RegistryReference:
    """Return what `url` names. Raises InvalidFieldError; the url is not repeated in its text."""
    if len(url) > URL_CHARS_MAX:
        raise _invalid(f"longer than {URL_CHARS_MAX} characters")
    scheme = next((prefix for prefix in SCHEMES if url.startswith(prefix)), None)
    if scheme is None:
        raise _invalid(f"does not begin with 'docker://', write it as {EXAMPLE}")
    authority, slash, path = url.removeprefix(scheme).partition("/")
    if not slash or not path:
        raise _invalid(f"names no host and repository, write it as {EXAMPLE}")
    # A digest's `@` comes after the first slash, a user's before it.
    if "@" in authority:
        raise _invalid("holds a user name, put it into registry.credentials")
    host = _parse_host(authority)
    name, _, digest = path.partition("@")
    repository, colon, tag = name.partition(":")
    if host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if len(repository) > REPOSITORY_CHARS_MAX or not _REPOSITORY.fullmatch(repository):
        raise _invalid(
            "the repository must be lower-case words joined by '/', '.', '_' or '-',"
            f" at most {REPOSITORY_CHARS_MAX} characters"
        )
    if colon and not _TAG.fullmatch(tag):
        raise _invalid("the tag must be 1 to 128 letters, digits, '_', '.' or '-'")
    if "@" not in path:
        return RegistryReference(host=host, repository=repository, tag=tag or DEFAULT_TAG)
    if not _DIGEST.fullmatch(digest):
        raise _invalid("the digest must be 'sha256:' and 64 hexadecimal digits in lower case")
    return RegistryReference(host=host, repository=repository, digest=digest)


def _parse_host(authority: str) -> str:
    host = authority.lower()
    match = _HOST.fullmatch(host)
    if match is None or (match["port"] and not 1 <= int(match["port"]) <= PORT_MAX):
        raise _invalid("the host must be a name or an address, with ':' and a port if need be")
    name: str = match["name"]
    if name.startswith("["):
        try:
            ipaddress.IPv6Address(name.strip("[]"))
        except ValueError:
            raise _invalid("the host in brackets is not an IPv6 address") from None
    # Docker's tools would read `busybox` and `library/busybox` as names on Docker Hub.
    elif "." not in name and not match["port"] and name != "localhost":
        raise _invalid(f"names no registry host before the first '/', write it as {EXAMPLE}")
    return DOCKER_HUB if host in DOCKER_HUB_ALIASES else host


def _invalid(problem: str) -> InvalidFieldError:
    return InvalidFieldError(FIELD, problem)
