"""How a replay compares with the run it repeats: what is equal, and where the first difference is.

Whatever differs is in the report with what explains it. Resources never decide: no two runs of
anything use the same. `Verdict` sums up the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from contree.domain.outcome import ResourceUsage
from contree.domain.text_difference import Cause, TextDifference


class Verdict(StrEnum):
    """EXPLAINED: there are differences, and each has the form of clock, randomness or network."""

    EQUAL = "equal"
    EXPLAINED = "explained"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended. `exit_code` and `signal` are None when no process did."""

    status: str
    error: str | None
    exit_code: int | None
    signal: int | None
    timed_out: bool
    oom_killed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSide:
    """What was kept of an output stream; `dropped_bytes` are those beyond the run's own cap."""

    sha256: str
    size_bytes: int
    dropped_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamComparison:
    """`first_difference` is None when the streams are equal, or their bytes are gone."""

    original: StreamSide | None
    replay: StreamSide | None
    first_difference: TextDifference | None = None
    causes: frozenset[Cause] = frozenset()

    @property
    def is_equal(self) -> bool:
        return self.original == self.replay


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDifference:
    """A path that the two deltas do not say the same of.

    fields            which properties differ: type, mode, uid, ..., content; `presence` when only
                      one delta has the path
    original, replay  those properties' values, by the same names; absent on the side without it
    """

    path: str
    fields: Sequence[str]
    original: Mapping[str, object]
    replay: Mapping[str, object]
    first_difference: TextDifference | None = None
    causes: frozenset[Cause]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemComparison:
    """The deltas file by file. `not_compared` says why there is nothing to compare, else None."""

    equal_count: int = 0
    differences: Sequence[FileDifference] = ()
    truncated: bool = False
    not_compared: str | None = None

    @property
    def is_equal(self) -> bool:
        return not self.differences

    @property
    def causes(self) -> frozenset[Cause]:
        found = frozenset(cause for d in self.differences for cause in d.causes)
        return found | {Cause.UNEXPLAINED} if self.truncated else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the main process used. None where no process ran."""

    duration_us: int
    usage: ResourceUsage | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """The whole comparison. Pairs are (original, replay).

    not_replayed  what happened in the original that a replay of its request cannot repeat
    """

    original_id: UUID
    replay_id: UUID
    ended: tuple[Ended, Ended]
    stdout: StreamComparison
    stderr: StreamComparison
    filesystem: FilesystemComparison
    resources: tuple[Resources, Resources]
    not_replayed: Sequence[str] = field(default_factory=tuple)

    @property
    def differing(self) -> Sequence[str]:
        """Names of the parts that differ, in the order they are looked at."""
        parts = (
            ("end", self.ended[0] == self.ended[1]),
            ("stdout", self.stdout.is_equal),
            ("stderr", self.stderr.is_equal),
            ("filesystem", self.filesystem.is_equal),
        )
        return [name for name, is_equal in parts if not is_equal]

    @property
    def causes(self) -> frozenset[Cause]:
        """What explains the differences; UNEXPLAINED among them when something remains."""
        found = self.stdout.causes | self.stderr.causes | self.filesystem.causes
        return found if self.ended[0] == self.ended[1] else found | {Cause.UNEXPLAINED}

    @property
    def verdict(self) -> Verdict:
        if not self.differing:
            return Verdict.EQUAL
        return Verdict.DIFFERENT if Cause.UNEXPLAINED in self.causes else Verdict.EXPLAINED
