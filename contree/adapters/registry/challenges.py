"""How a registry asks for authentication: the WWW-Authenticate header, RFC 9110 section 11.

Registries use two schemes: Basic, and Bearer with a realm that gives tokens (distribution's token
specification).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CHALLENGE_CHARS_MAX = 8192
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z0-9!#$%&'*+.^_`|~-]+)(?=\s|,|$)")
_PARAMETER = re.compile(
    r"\s*,?\s*([A-Za-z0-9!#$%&'*+.^_`|~-]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One scheme that would do, in lower case, with its parameters by lower-case names."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges of WWW-Authenticate headers; what is malformed ends a header."""
    found: list[Challenge] = []
    for header in headers:
        text = header[:CHALLENGE_CHARS_MAX]
        at = 0
        while scheme := _SCHEME.match(text, at):
            at = scheme.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(text, at):
                name, quoted, plain = parameter.groups()
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters.setdefault(name.lower(), value)
                at = parameter.end()
            found.append(Challenge(scheme=scheme[1].lower(), parameters=parameters))
    return found
