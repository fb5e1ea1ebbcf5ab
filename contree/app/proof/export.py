"""A run of the log as a file of lines, which proves that it is exactly that run.

    {"format": "contree/log-export/v1", "first_leaf": 5, "count": 3,
     "public_key": "…", "checkpoint": "…",        as in a bundle
     "left": ["…", …], "right": ["…", …]}         base64: the subtrees before and after the run
    {…}                                            one event a line (event_text), in order

Whoever hashes the events, and puts the subtrees on both sides, gets the root that was signed, and
gets it in no other way: no event of the run can be missing, added, changed or moved. Written and
checked in one pass; memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import BinaryIO

import msgspec

from contree.app.proof.bundle import Proven, trusted
from contree.app.proof.event_text import BAD_JSON, EventText
from contree.app.proof.growth import BATCH_EVENTS, LogAlteredError, bytes_of
from contree.app.proof.log_tree import LogTree
from contree.app.proof.note_keys import SignatureCheck
from contree.app.proof.signed import SignedCheckpoint
from contree.app.proof.tree_reader import hashes_of
from contree.app.recorded_log import RecordedLog
from contree.domain.errors import InvalidFieldError, TooEarlyError
from contree.domain.log_row import leaf_hash
from contree.domain.merkle import RangeRoot, nodes_of
from contree.domain.note import VerifierKey, b64decoded, b64encoded

FORMAT = "contree/log-export/v1"
LINE_BYTES_MAX = 256 * 1024**2
POSITION_MAX = 2**63 - 1


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line."""

    format: str
    first_leaf: int
    count: int
    public_key: str
    checkpoint: str
    left: list[str]
    right: list[str]


class Export:
    """`newest` is the checkpoint that the proof leads to."""

    def __init__(
        self,
        *,
        recorded: RecordedLog,
        tree: LogTree,
        newest: SignedCheckpoint,
    ) -> None:
        self._recorded = recorded
        self._tree = tree
        self._newest = newest

    async def lines(self, *, after: int, until: int | None) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the events beyond position `after` up to and with `until`.

        Without `until`, up to the last that is signed. Raises InvalidFieldError for a range that
        holds no event, TooEarlyError for one that is not all signed yet, LogAlteredError, before or
        after the last line, when the log is not what was signed.
        """
        size = self._newest.checkpoint.size
        if not 0 <= after < (POSITION_MAX if until is None else until):
            raise InvalidFieldError("after", "give 0 <= after < until")
        if until is not None and until >= POSITION_MAX:
            raise InvalidFieldError("until", f"give a position below {POSITION_MAX}")
        first = await self._tree.leaves_before(after + 1)
        end = size if until is None else await self._tree.leaves_before(until + 1)
        if first >= end:
            raise InvalidFieldError("after", f"there is no signed event beyond position {after}")
        if end > size:
            raise TooEarlyError(f"the newest checkpoint covers {size} events, this needs {end}")
        left = await hashes_of(self._tree, nodes_of((0, first)))
        right = await hashes_of(self._tree, nodes_of((end, size)))
        header = Header(
            format=FORMAT,
            first_leaf=first,
            count=end - first,
            public_key=str(self._newest.key),
            checkpoint=self._newest.note.decode(),
            left=[b64encoded(value) for value in left],
            right=[b64encoded(value) for value in right],
        )
        yield msgspec.json.encode(header) + b"\n"
        root = RangeRoot(first, left)
        while root.size < end:
            limit = min(BATCH_EVENTS, end - root.size)
            events = await self._recorded.read(after=after, limit=limit)
            for event in events:
                root.add(leaf_hash(bytes_of(event)))
            if not events:
                raise LogAlteredError(f"the log ends at position {after}, before what was signed")
            after = events[-1].position
            encoded = [msgspec.json.encode(EventText.of(event)) for event in events]
            yield b"\n".join([*encoded, b""])
        if root.finish(size, right) != self._newest.checkpoint.root:
            raise LogAlteredError(
                "the events are not those that were signed: `contreed audit verify` says where"
            )


def is_export(first_line: bytes) -> bool:
    """Whether a file that begins so is an export, whole or not."""
    try:
        return msgspec.json.decode(first_line, type=Header).format == FORMAT
    except BAD_JSON:
        return False


def check_export(file: BinaryIO, *, keys: Sequence[VerifierKey], check: SignatureCheck) -> Proven:
    """Return what an export proves; `events` of it are the first and the last one only.

    Raises InvalidFieldError saying what is wrong, with the number of the line.
    """
    try:
        header = msgspec.json.decode(file.readline(LINE_BYTES_MAX), type=Header)
    except BAD_JSON as error:
        raise InvalidFieldError("line 1", str(error)) from error
    if header.format != FORMAT:
        raise InvalidFieldError("format", f"is '{header.format}', this release reads '{FORMAT}'")
    signed = trusted(header.public_key, header.checkpoint, keys=keys, check=check)
    checkpoint = signed.checkpoint
    if not (0 <= header.first_leaf < header.first_leaf + header.count <= checkpoint.size):
        raise InvalidFieldError("first_leaf", f"the range is not within {checkpoint.size} events")
    events: list[EventText] = []
    try:
        root = RangeRoot(header.first_leaf, [b64decoded(v, field="left") for v in header.left])
        for event, row in _events(file, header.count):
            root.add(leaf_hash(row))
            events = [*events[:1], event]
        found = root.finish(checkpoint.size, [b64decoded(v, field="right") for v in header.right])
    except ValueError as error:
        raise InvalidFieldError("left, right", str(error)) from error
    if found != checkpoint.root:
        raise InvalidFieldError("events", "do not lead to the root of the checkpoint")
    last = header.first_leaf + header.count - 1
    return Proven(
        what=f"events {header.first_leaf + 1} to {last + 1} of the log, "
        f"with none left out between: {header.count} events",
        events=events,
        event_count=header.count,
        signed=signed,
        key_is_its_own=not keys,
    )


def _events(file: BinaryIO, count: int) -> Iterator[tuple[EventText, bytes]]:
    decoder = msgspec.json.Decoder(EventText)
    position = 0
    for number in range(2, count + 2):
        line = file.readline(LINE_BYTES_MAX)
        try:
            if not line.endswith(b"\n"):
                raise InvalidFieldError("file", f"ends before its {count} events do")
            event = decoder.decode(line)
            row = event.row()
            if event.position <= position:
                raise InvalidFieldError("position", "is not beyond that of the line before")
            position = event.position
        except (*BAD_JSON, InvalidFieldError) as error:
            raise InvalidFieldError(f"line {number}", str(error)) from error
        yield event, row
    if file.readline(1):
        raise InvalidFieldError(f"line {count + 2}", "is beyond the range of the first line")
