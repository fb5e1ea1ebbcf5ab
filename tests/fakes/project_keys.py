"""Data keys and ciphers that tests can look through: no secrecy, the same refusals as real ones."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from uuid import UUID

from contree.domain.errors import ContentDamagedError, ContentErasedError
from contree.domain.project import ProjectErased
from tests.fakes.event_log import FakeEventLog

_numbers = itertools.count(1)
_INVERTED = bytes(range(255, -1, -1))


class FakeBox:
    """A keyed tag, a number that is never the same, and an inverted copy."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, plain: bytes) -> bytes:
        text = next(_numbers).to_bytes(8, "big") + plain.translate(_INVERTED)
        return hmac.digest(self._key, text, "sha256") + text

    def open(self, sealed: bytes) -> bytes:
        if not hmac.compare_digest(hmac.digest(self._key, sealed[32:], "sha256"), sealed[:32]):
            raise ContentDamagedError("a sealed value is damaged")
        return sealed[40:].translate(_INVERTED)


class FakeEncryption:
    """All is held to the end; then one box holds it."""

    def __init__(self, box: FakeBox) -> None:
        self._box = box
        self._plain = b""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._plain).hexdigest()

    @property
    def size_bytes(self) -> int:
        return len(self._plain)

    def update(self, plain: bytes) -> bytes:
        self._plain += plain
        return b""

    def finish(self) -> bytes:
        return self._box.seal(self._plain)


class FakeDecryption:
    def __init__(self, box: FakeBox, sha256: str) -> None:
        self._box = box
        self._sha256 = sha256
        self._stored = b""

    def update(self, stored: bytes) -> bytes:
        self._stored += stored
        return b""

    def go_to(self, offset: int) -> tuple[int, int]:
        """There is but one piece, the whole."""
        assert offset >= 0
        self._stored = b""
        return 0, 0

    def finish(self) -> bytes:
        plain = self._box.open(self._stored)
        if hashlib.sha256(plain).hexdigest() != self._sha256:
            raise ContentDamagedError("stored content is another")
        return plain


class FakeCipher:
    head_bytes = 1

    def __init__(self, key: bytes) -> None:
        self._key = key

    def box(self, purpose: str) -> FakeBox:
        return FakeBox(self._key + purpose.encode())

    def name_of(self, sha256: str) -> str:
        return hashlib.sha256(self._key + sha256.encode()).hexdigest()

    def encryption(self) -> FakeEncryption:
        return FakeEncryption(self.box("content"))

    def decryption(self, sha256: str) -> FakeDecryption:
        return FakeDecryption(self.box("content"), sha256)


class FakeCiphers:
    def __init__(self) -> None:
        self._count = 0

    def new_key(self) -> bytes:
        self._count += 1
        return f"key {self._count} ".encode()

    def cipher(self, key: bytes) -> FakeCipher:
        return FakeCipher(key)


class FakeProjectKeys:
    """Keys of the projects of `log`: gone from the moment that it says so."""

    def __init__(self, log: FakeEventLog | None = None) -> None:
        self._log = log or FakeEventLog()
        self._ciphers = FakeCiphers()
        self._keys: dict[UUID, bytes] = {}

    async def cipher(self, project_id: UUID) -> FakeCipher:
        for event in self._log.events:
            if isinstance(event, ProjectErased) and event.originator_id == project_id:
                self._keys.pop(project_id, None)
                raise ContentErasedError(event.timestamp)
        if project_id not in self._keys:
            self._keys[project_id] = self._ciphers.new_key()
        return self._ciphers.cipher(self._keys[project_id])
