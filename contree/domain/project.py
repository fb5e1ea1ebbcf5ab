"""The Project aggregate: the namespace that images, tags, files and operations belong to.

Also what becomes of its content over time: how long it is kept, whether it is held, and that it was
erased. Each of these is a fact of the log; the content itself is beside it and can be destroyed.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID, uuid5

from contree.domain.aggregate import Aggregate, Created, Event, register
from contree.domain.context import Context
from contree.domain.errors import ContentErasedError, InvalidFieldError, InvalidTransitionError

NAMESPACE = UUID("6f1c1c9e-7d0a-5c53-9b52-3c7c1d2d6a10")
"""Root of all derived ids (RFC 9562 version 5)."""

PROJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

RETENTION_DAYS_MAX = 36_525
"""A hundred years; longer is `forever`."""

REASON_CHARS_MAX = 1000


def project_id_of(name: str) -> UUID:
    """The id of the project called `name`; the same name gives the same id everywhere."""
    return uuid5(NAMESPACE, f"project:{name}")


class Removal(StrEnum):
    """Why content was removed."""

    ERASURE = "erasure"
    RETENTION = "retention"


class ProjectCreated(Created):
    """Recorded by the command line when a token is first made for a new project name."""

    TOPIC = "contree.project.created"
    name: str


class ProjectHeld(Event):
    """Recorded when an operator places a legal hold: nothing of the content may go any more."""

    TOPIC = "contree.project.held"
    reason: str

    def apply(self, aggregate: Project) -> None:
        aggregate.hold_reason = self.reason


class ProjectReleased(Event):
    """Recorded when an operator ends the legal hold."""

    TOPIC = "contree.project.released"

    def apply(self, aggregate: Project) -> None:
        aggregate.hold_reason = None


class RetentionSet(Event):
    """Recorded when an operator says how long content is kept; None is for ever."""

    TOPIC = "contree.project.retention_set"
    days: int | None

    def apply(self, aggregate: Project) -> None:
        aggregate.retention_days = self.days


class RetentionApplied(Event):
    """Recorded before content goes: from here on, that of operations ended before `cut` is gone.

    operation_count  how many more operations that are than at the cut before
    """

    TOPIC = "contree.project.retention_applied"
    cut: datetime
    operation_count: int

    def apply(self, aggregate: Project) -> None:
        aggregate.content_cut = self.cut


class ProjectErased(Event):
    """Recorded in the transaction that destroys the project's data key and revokes its tokens."""

    TOPIC = "contree.project.erased"
    reason: str

    def apply(self, aggregate: Project) -> None:
        aggregate.erased_at = self.timestamp


class ContentRemoved(Event):
    """Recorded when content that had to go was removed from disk.

    cause         a Removal; of `retention`, `cut` says which
    complete      nothing is left of it; else the rest goes later
    journal_count operations whose journal went
    blob_count    outputs, standard inputs and files; `blob_bytes` their size as stored
    layer_count   layers that no other project's image needs; `layer_bytes` their tars' size
    """

    TOPIC = "contree.project.content_removed"
    cause: str
    cut: datetime | None
    complete: bool
    journal_count: int
    blob_count: int
    blob_bytes: int
    layer_count: int
    layer_bytes: int


class Project(Aggregate):
    """A namespace, what its tokens may reach, and how long its content is there."""

    TOPIC = "contree.project"
    OVERWRITES = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.hold_reason: str | None = None
        self.retention_days: int | None = None
        self.content_cut: datetime | None = None
        self.erased_at: datetime | None = None

    @classmethod
    def create(cls, context: Context, *, name: str) -> Project:
        """Raise InvalidFieldError unless `name` is 1..128 of letters, digits, `_`, `.`, `-`."""
        if not PROJECT_NAME.fullmatch(name):
            raise InvalidFieldError(
                "project",
                "use 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or digit",
            )
        return cls._begin(ProjectCreated, context, project_id_of(name), name=name)

    def hold(self, context: Context, *, reason: str) -> None:
        """Raise InvalidTransitionError when it is held already, ContentErasedError when erased."""
        self._require_content()
        if self.hold_reason is not None:
            raise InvalidTransitionError(
                f"project '{self.name}' is held already: {self.hold_reason}"
            )
        self._record(ProjectHeld, context, reason=_checked_reason(reason))

    def release(self, context: Context) -> None:
        """Raise InvalidTransitionError when it is not held."""
        if self.hold_reason is None:
            raise InvalidTransitionError(f"project '{self.name}' is not held")
        self._record(ProjectReleased, context)

    def set_retention(self, context: Context, *, days: int | None) -> None:
        """Keep content for `days` after an operation's end, None for ever; the same is no event.

        Allowed under a hold, which comes first. Raises InvalidFieldError, ContentErasedError.
        """
        self._require_content()
        if days is not None and not 1 <= days <= RETENTION_DAYS_MAX:
            raise InvalidFieldError(
                "days", f"is {days}, use 1 to {RETENTION_DAYS_MAX}, or 'forever'"
            )
        if days != self.retention_days:
            self._record(RetentionSet, context, days=days)

    def retention_cut(self, at: datetime) -> datetime | None:
        """Up to which end of an operation content should be gone at `at`, in whole hours.

        None when nothing more is to go than what has gone: for ever, held, erased.
        """
        if self.retention_days is None or self.hold_reason is not None or self.erased_at:
            return None
        cut = at.replace(minute=0, second=0, microsecond=0) - timedelta(days=self.retention_days)
        return None if self.content_cut is not None and cut <= self.content_cut else cut

    def apply_retention(self, context: Context, *, cut: datetime, operation_count: int) -> None:
        """Raise InvalidTransitionError when retention does not ask for that (any more)."""
        due = self.retention_cut(context.at)
        if due is None or cut > due:
            raise InvalidTransitionError(f"project '{self.name}' keeps its content")
        self._record(RetentionApplied, context, cut=cut, operation_count=operation_count)

    def erase(self, context: Context, *, reason: str) -> None:
        """Raise InvalidTransitionError under a legal hold, ContentErasedError when it was."""
        self._require_content()
        if self.hold_reason is not None:
            raise InvalidTransitionError(
                f"project '{self.name}' is under a legal hold ({self.hold_reason}); "
                "nothing was erased"
            )
        self._record(ProjectErased, context, reason=_checked_reason(reason))

    def content_removed(
        self,
        context: Context,
        *,
        cause: Removal,
        complete: bool,
        journal_count: int,
        blob_count: int,
        blob_bytes: int,
        layer_count: int = 0,
        layer_bytes: int = 0,
    ) -> None:
        """Some, or with `complete` all, that had to go for `cause` is gone from disk."""
        self._record(
            ContentRemoved,
            context,
            cause=cause.value,
            cut=self.content_cut if cause is Removal.RETENTION else None,
            complete=complete,
            journal_count=journal_count,
            blob_count=blob_count,
            blob_bytes=blob_bytes,
            layer_count=layer_count,
            layer_bytes=layer_bytes,
        )

    def _require_content(self) -> None:
        if self.erased_at is not None:
            raise ContentErasedError(self.erased_at)


def _checked_reason(reason: str) -> str:
    if not 1 <= len(reason.strip()) <= REASON_CHARS_MAX or "\0" in reason:
        raise InvalidFieldError("reason", f"say why, in 1 to {REASON_CHARS_MAX} characters")
    return reason.strip()


register(
    Project,
    ProjectCreated,
    ProjectHeld,
    ProjectReleased,
    RetentionSet,
    RetentionApplied,
    ProjectErased,
    ContentRemoved,
)
