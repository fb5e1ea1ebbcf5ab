"""Reads of the log that end by bytes as well as by rows: how much a batch holds is ours to say.

The sizes come first: PostgreSQL tells the length of a value without reading it, so what is cut off
costs no more than its row.
"""

from __future__ import annotations

BYTES = "coalesce(octet_length(state), 0)"
"""Whoever has changed the table may have left a row without a state, which is to be found."""


def by_bytes(columns: str, *, where: str, rows_max: str, bytes_max: str) -> str:
    """Return the query of the log's rows that meet `where`, in order, at most `rows_max` of them.

    It ends with the row that fills `bytes_max` bytes of `state`, so it returns one at least. The
    last two are placeholders. Whether there may be more, `app.recorded_log.is_full` says.
    """
    return (
        f"SELECT {columns} FROM (SELECT *, sum({BYTES}) OVER "  # noqa: S608 - ours
        f"(ORDER BY notification_id ROWS UNBOUNDED PRECEDING) - {BYTES} AS before_bytes FROM "
        f" (SELECT * FROM public.stored_events WHERE {where} "
        f"ORDER BY notification_id LIMIT {rows_max}) AS batch) AS sized "
        f"WHERE before_bytes < {bytes_max} ORDER BY notification_id"
    )
