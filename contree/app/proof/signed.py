"""Checkpoints as signed notes: made with a private key, believed only with a known public key."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from contree.app.proof.note_keys import NoteSigner, SignatureCheck
from contree.domain.checkpoint import Checkpoint
from contree.domain.errors import InvalidFieldError
from contree.domain.note import Note, Signature, VerifierKey


def signed(checkpoint: Checkpoint, signer: NoteSigner) -> bytes:
    """Return the note."""
    text = checkpoint.text()
    signature = Signature(
        name=signer.key.name, key_id=signer.key.key_id, value=signer.sign(text.encode())
    )
    return str(Note(text=text, signatures=[signature])).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A checkpoint, the note it came in, and the key whose signature it has."""

    checkpoint: Checkpoint
    note: bytes
    key: VerifierKey


def opened(note: bytes, keys: Collection[VerifierKey], check: SignatureCheck) -> SignedCheckpoint:
    """Open a note that one of `keys` signed under the checkpoint's origin.

    Raises InvalidFieldError saying what is wrong: not a note, signed by none of the keys, a
    signature of a known key that is not right.
    """
    parsed = Note.parse(note)
    known = [(s, k) for s in parsed.signatures for k in keys if s.is_of(k)]
    if not known:
        names = ", ".join(f"{s.name}+{s.key_id.hex()}" for s in parsed.signatures)
        raise InvalidFieldError("checkpoint", f"is signed by {names}, not by a key that we know")
    message = parsed.text.encode()
    for signature, key in known:
        if not check(key.public_key, message, signature.value):
            raise InvalidFieldError("checkpoint", f"the signature of {signature.name} is wrong")
    checkpoint = Checkpoint.parse(parsed.text)
    signer = next((key for _, key in known if key.name == checkpoint.origin), None)
    if signer is None:
        raise InvalidFieldError(
            "checkpoint", f"is of the log '{checkpoint.origin}', the key is of another"
        )
    return SignedCheckpoint(checkpoint=checkpoint, note=note, key=signer)
