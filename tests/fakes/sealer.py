"""Sealing that tests can look through: reversible, keyed, and refusing what it did not seal."""

from __future__ import annotations

import hashlib
import hmac

from contree.domain.errors import OperationFailure


class FakeSealer:
    """Seals by a keyed tag and an inverted copy: no secrecy, the same refusals as the real one."""

    def __init__(self, key: bytes = b"fake") -> None:
        self._key = key

    def seal(self, plain: bytes) -> bytes:
        return self._tag(plain) + bytes(b ^ 0xFF for b in plain)

    def open(self, sealed: bytes) -> bytes:
        plain = bytes(b ^ 0xFF for b in sealed[32:])
        if not hmac.compare_digest(self._tag(plain), sealed[:32]):
            raise OperationFailure("the sealed secret was not sealed under this key")
        return plain

    def digest(self, plain: bytes) -> str:
        return hmac.new(self._key, b"digest:" + plain, hashlib.sha256).hexdigest()

    def _tag(self, plain: bytes) -> bytes:
        return hmac.digest(self._key, b"seal:" + plain, "sha256")
