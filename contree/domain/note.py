"""Signed notes (C2SP signed-note): text, a blank line, and lines that each hold one signature.

    <text, ends in a newline>
    <blank line>
    — <key name> <base64 of 4 bytes key id and the signature>

Only Ed25519 signatures (type 1) are ours; those of other keys are carried along and not looked at.
The arithmetic of signing is behind `app.proof.note_keys`: this module is the format.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from contree.domain.errors import InvalidFieldError

NOTE_BYTES_MAX = 64 * 1024
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
ED25519 = b"\x01"

_DASH = "\N{EM DASH} "
_KEY_NAME = re.compile(r"[^\s+]+")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """A public key with the name it signs under; `str` gives `name+id+key`, as others read it."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name):
            raise InvalidFieldError("key", f"'{self.name}' has blanks or '+', or is empty")
        if len(self.public_key) != PUBLIC_KEY_BYTES:
            raise InvalidFieldError("key", f"an Ed25519 key has {PUBLIC_KEY_BYTES} bytes")

    @property
    def key_id(self) -> bytes:
        named = self.name.encode() + b"\n" + ED25519 + self.public_key
        return hashlib.sha256(named).digest()[:4]

    def __str__(self) -> str:
        key = b64encoded(ED25519 + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{key}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name+id+key`. Raises InvalidFieldError."""
        # The last part is base64 and may itself hold "+".
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        key = b64decoded(encoded, field="key")
        if key[:1] != ED25519:
            raise InvalidFieldError("key", f"'{text}' is not NAME+ID+KEY of an Ed25519 key")
        made = cls(name=name, public_key=key[1:])
        if made.key_id.hex() != key_id:
            raise InvalidFieldError("key", f"the id of '{text}' is not that of its name and key")
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature line, not yet verified."""

    name: str
    key_id: bytes
    value: bytes

    def is_of(self, key: VerifierKey) -> bool:
        return (self.name, self.key_id) == (key.name, key.key_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`text` is what is signed, with its last newline."""

    text: str
    signatures: Sequence[Signature]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a note's bytes. Raises InvalidFieldError; says nothing about who signed."""
        if len(data) > NOTE_BYTES_MAX:
            raise InvalidFieldError("note", f"is over {NOTE_BYTES_MAX} bytes")
        try:
            whole = data.decode()
        except UnicodeDecodeError as error:
            raise InvalidFieldError("note", "is not UTF-8") from error
        if _CONTROL.search(whole):
            raise InvalidFieldError("note", "holds control characters")
        text, blank, lines = whole.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise InvalidFieldError("note", "ends before its signatures do")
        return cls(text=text + "\n", signatures=[_signature(x) for x in lines[:-1].split("\n")])

    def __str__(self) -> str:
        lines = (f"{_DASH}{s.name} {b64encoded(s.key_id + s.value)}\n" for s in self.signatures)
        return f"{self.text}\n{''.join(lines)}"


def is_key_name(name: str) -> bool:
    """Whether a key, and so a log, may have this name."""
    return bool(_KEY_NAME.fullmatch(name)) and not _CONTROL.search(name)


def b64encoded(data: bytes) -> str:
    """Standard base64 (RFC 4648, section 4), padded."""
    return base64.b64encode(data).decode()


def b64decoded(text: str, *, field: str) -> bytes:
    """Decode base64 in the one way it is encoded. Raises InvalidFieldError naming `field`."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidFieldError(field, "is not base64") from error
    if b64encoded(data) != text:
        raise InvalidFieldError(field, "is not base64 as it is written")
    return data


def _signature(line: str) -> Signature:
    name, blank, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not blank or not is_key_name(name):
        raise InvalidFieldError("note", f"'{line[:80]}' is not a signature line")
    data = b64decoded(encoded, field="note signature")
    if len(data) <= 4:  # noqa: PLR2004 - the key's id
        raise InvalidFieldError("note", "a signature is too short")
    return Signature(name=name, key_id=data[:4], value=data[4:])
