"""What is long in a description of a process: kept as content, so that no event grows with it.

An event carries these fields itself while they are short. Beyond INLINE_BYTES_MAX it carries their
digest (`Body`) and the beginning of the command, and the content store has the rest: encrypted by
project, removed by retention and erasure, as what a process is given on its standard input is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

INLINE_BYTES_MAX = 16 * 1024
"""Bytes of JSON of these fields that an event may carry itself."""

COMMAND_SHOWN_CHARS = 1000
"""Of a command that is kept as content, for whoever reads the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """JSON in the content store: its digest (lower-case hex) and size."""

    sha256: str
    size_bytes: int

    @classmethod
    def from_fact(cls, fact: Mapping[str, Any] | None) -> Self | None:
        return None if fact is None else cls(**fact)


class Described(Protocol):
    """InstanceSpec and SubprocessSpec."""

    @property
    def body(self) -> Body | None: ...

    def to_fact(self) -> dict[str, Any]: ...

    @classmethod
    def from_fact(cls, fact: Mapping[str, Any]) -> Self: ...


S = TypeVar("S", bound=Described)


def long_fields(spec: Described) -> dict[str, Any]:
    """The fields of `spec` that a client can make long, in their JSON form."""
    fact = spec.to_fact()
    return {"command": fact["command"], **{name: fact[name] for name in _emptied() if name in fact}}


def shortened(spec: S, body: Body) -> S:
    """Return `spec` as an event carries it when `body` has its long fields."""
    fact = spec.to_fact()
    fact |= {name: nothing for name, nothing in _emptied().items() if name in fact}
    fact["command"] = fact["command"][:COMMAND_SHOWN_CHARS]
    fact["body"] = {"sha256": body.sha256, "size_bytes": body.size_bytes}
    return type(spec).from_fact(fact)


def lengthened(spec: S, fields: Mapping[str, Any]) -> S:
    """Return what was `shortened`, of what its body holds."""
    return type(spec).from_fact({**spec.to_fact(), **fields, "body": None})


def _emptied() -> dict[str, Any]:
    return {"args": [], "env": {}, "env_digests": {}, "env_sealed": None, "cwd": "", "files": {}}
