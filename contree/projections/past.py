"""The read side as it was at a position of the log (app.audit.audit_reads.PastReads)."""

from __future__ import annotations

from contree.app.projection import Database
from contree.projections.past_images import PastImages
from contree.projections.past_operations import EventDecoder, PastOperations


class SqlPastReads:
    def __init__(self, database: Database, *, decode_event: EventDecoder) -> None:
        self._database = database
        self._decode_event = decode_event

    def images(self, position: int) -> PastImages:
        return PastImages(self._database, position)

    def operations(self, position: int) -> PastOperations:
        return PastOperations(self._database, position, decode_event=self._decode_event)
