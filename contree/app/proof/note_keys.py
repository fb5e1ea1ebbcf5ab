"""Signing and checking of notes (domain.note). Implemented by adapters.system.note_keys."""

from __future__ import annotations

from typing import Protocol

from contree.domain.note import VerifierKey


class NoteSigner(Protocol):
    """Holds a private key."""

    @property
    def key(self) -> VerifierKey:
        """The public key, with the name it signs under."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature, 64 bytes."""
        ...


class SignatureCheck(Protocol):
    """Ed25519 verification (RFC 8032)."""

    def __call__(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the signature is right; False also for bytes that are no key or signature."""
        ...
