"""The proof that a log went on from an earlier checkpoint of it, nothing before that changed.

    {"format": "contree/consistency-proof/v1",
     "older": {"public_key": "name+id+key", "checkpoint": "…"},      the signed notes, as they are
     "newer": {"public_key": "…", "checkpoint": "…"},
     "proof": ["…", …]}                                              base64; RFC 9162, 2.1.4

It holds no event. Whoever kept the older checkpoint learns that all events under it are still
there, the same and in the same order. Two checkpoints of one log between which there is no such
proof are the evidence that its owner showed two histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec

from contree.app.proof.bundle import Proven, trusted
from contree.app.proof.event_text import BAD_JSON
from contree.app.proof.growth import LogAlteredError
from contree.app.proof.log_tree import LogTree
from contree.app.proof.note_keys import SignatureCheck
from contree.app.proof.signed import SignedCheckpoint
from contree.app.proof.tree_reader import consistency_proof, root_at
from contree.domain.checkpoint import Checkpoint
from contree.domain.errors import InvalidFieldError
from contree.domain.merkle import is_consistent
from contree.domain.note import VerifierKey, b64decoded, b64encoded

FORMAT = "contree/consistency-proof/v1"


class NoteText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint and whose it is."""

    public_key: str
    checkpoint: str

    @classmethod
    def of(cls, signed: SignedCheckpoint) -> Self:
        return cls(public_key=str(signed.key), checkpoint=signed.note.decode())


class Consistency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape above."""

    format: str
    older: NoteText
    newer: NoteText
    proof: list[str]

    def encoded(self) -> bytes:
        """As a file, indented for people."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


async def prove_consistency(
    tree: LogTree, older: SignedCheckpoint, newer: SignedCheckpoint
) -> Consistency:
    """Return the proof, which has been checked.

    Raises InvalidFieldError for checkpoints that are not older and newer, or that cover nothing or
    more than the log has; LogAlteredError, naming the one, when one is not of this log;
    TreeDamagedError, UnavailableError.
    """
    from_, to = older.checkpoint, newer.checkpoint
    if not 0 < from_.size <= to.size:
        raise InvalidFieldError(
            "from", f"covers {from_.size} events, to {to.size}: give 0 < from <= to"
        )
    if to.size > (size := (await tree.state()).size):
        raise InvalidFieldError("to", f"covers {to.size} events, the log's tree has {size}")
    for checkpoint in (from_, to):
        if await root_at(tree, checkpoint.size) != checkpoint.root:
            raise LogAlteredError(
                f"the log's first {checkpoint.size} events are not those of the checkpoint "
                f"{_named(checkpoint)}: `contreed audit verify` says more"
            )
    proof = await consistency_proof(tree, from_.size, to.size)
    if not is_consistent(from_.size, from_.root, to.size, to.root, proof):
        raise LogAlteredError("the log's tree is damaged: `contreed audit rebuild` makes it again")
    return Consistency(
        format=FORMAT,
        older=NoteText.of(older),
        newer=NoteText.of(newer),
        proof=[b64encoded(value) for value in proof],
    )


def is_consistency(data: bytes) -> bool:
    """Whether this is such a proof, right or not."""
    try:
        return msgspec.json.decode(data, type=_Kind).format == FORMAT
    except BAD_JSON:
        return False


def check_consistency(data: bytes, *, keys: Sequence[VerifierKey], check: SignatureCheck) -> Proven:
    """Return what such a file proves. `keys` as in check_bundle.

    Raises InvalidFieldError saying what is wrong with it.
    """
    try:
        found = msgspec.json.decode(data, type=Consistency)
    except BAD_JSON as error:
        raise InvalidFieldError("proof", f"is not whole, or none: {error}") from error
    if found.format != FORMAT:
        raise InvalidFieldError("format", f"is '{found.format}', this release reads '{FORMAT}'")
    older = trusted(found.older.public_key, found.older.checkpoint, keys=keys, check=check)
    newer = trusted(found.newer.public_key, found.newer.checkpoint, keys=keys, check=check)
    if older.key != newer.key and not keys:
        raise InvalidFieldError(
            "public_key", "the checkpoints are of two keys: give both that you know with --key"
        )
    from_, to = older.checkpoint, newer.checkpoint
    proof = [b64decoded(value, field="proof") for value in found.proof]
    if not is_consistent(from_.size, from_.root, to.size, to.root, proof):
        raise InvalidFieldError(
            "proof",
            f"does not lead from the checkpoint {_named(from_)} to the one {_named(to)}",
        )
    return Proven(
        what=f"events 1 to {from_.size} of the log are still those of the checkpoint "
        f"{_named(from_)}",
        events=(),
        event_count=from_.size,
        signed=newer,
        key_is_its_own=not keys,
    )


class _Kind(msgspec.Struct, frozen=True):
    format: str


def _named(checkpoint: Checkpoint) -> str:
    at = "" if checkpoint.at is None else f" of {checkpoint.at:%Y-%m-%d %H:%M:%S} UTC"
    return f"over {checkpoint.size} events{at}"
