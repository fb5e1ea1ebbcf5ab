"""A further process that a client starts in a running instance, as it was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from contree.domain.instance import OUTPUT_BYTES_DEFAULT, Stdin, check_process, process_argv
from contree.domain.spec_body import Body


@dataclass(frozen=True, slots=True, kw_only=True)
class SubprocessSpec:
    """One process, with every default filled. `env` holds no secret: see `domain.environment`.

    env                 on top of the instance's own environment; None unsets
    env_digests         keyed digest of each masked value
    body, env_sealed    as InstanceSpec has them
    cwd                 empty: the instance's own
    stdin               None: /dev/null
    output_bytes_max    bytes kept of each of stdout and stderr
    """

    command: str
    args: tuple[str, ...] = ()
    shell: bool = False
    env: Mapping[str, str | None] = field(default_factory=dict)
    env_digests: Mapping[str, str] = field(default_factory=dict)
    env_sealed: str | None = field(default=None, repr=False)
    cwd: str = ""
    uid: int = 0
    gid: int = 0
    stdin: Stdin | None = None
    body: Body | None = None
    output_bytes_max: int = OUTPUT_BYTES_DEFAULT

    def check(self) -> None:
        """Raise InvalidFieldError naming the first field out of its bounds (the API's names)."""
        check_process(self)

    def argv(self, env: Mapping[str, str]) -> tuple[str, ...]:
        """The argument vector under the process environment `env`."""
        return process_argv(self, env)

    def to_fact(self) -> dict[str, Any]:
        """The JSON form that events carry."""
        return asdict(self) | {"args": list(self.args)}

    @classmethod
    def from_fact(cls, fact: Mapping[str, Any]) -> SubprocessSpec:
        """Read what `to_fact` wrote."""
        stdin = fact["stdin"]
        return cls(
            **{
                **fact,
                "args": tuple(fact["args"]),
                "stdin": None if stdin is None else Stdin(**stdin),
                "body": Body.from_fact(fact.get("body")),
            }
        )
