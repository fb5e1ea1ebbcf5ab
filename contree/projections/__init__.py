"""Read models: tables folded from the log, what each event changes in them, and the reads.

Every table here can be dropped and rebuilt at any time. A change touches rows of its own event's
aggregate only: the statement that appends could not see what another aggregate's writer has just
put into another row.

The audit index (`audit_index`) is no read model of this kind: it follows the log.
"""

from collections.abc import Sequence

from contree.app.projection import Projection
from contree.projections.ancestry import SqlAncestry
from contree.projections.audit_reads import SqlAuditReads
from contree.projections.content_refs import ContentRefsProjection
from contree.projections.files import FilesProjection, SqlFileReads
from contree.projections.guest_starts import SqlGuestStarts
from contree.projections.images import ImagesProjection, SqlImageReads
from contree.projections.known_ids import SqlKnownIds
from contree.projections.operation_reads import SqlOperationReads
from contree.projections.operations import OperationsProjection
from contree.projections.past import SqlPastReads
from contree.projections.projects import ProjectsProjection, SqlProjectReads
from contree.projections.tags import TagsProjection
from contree.projections.tokens import SqlTokenReads, TokensProjection

ALL: Sequence[Projection] = (
    ProjectsProjection(),
    TokensProjection(),
    ImagesProjection(),
    TagsProjection(),
    OperationsProjection(),
    FilesProjection(),
    ContentRefsProjection(),
)

__all__ = [
    "ALL",
    "SqlAncestry",
    "SqlAuditReads",
    "SqlFileReads",
    "SqlGuestStarts",
    "SqlImageReads",
    "SqlKnownIds",
    "SqlOperationReads",
    "SqlPastReads",
    "SqlProjectReads",
    "SqlTokenReads",
]
