"""What one data key does (app.content.project_keys): AES-256-GCM, keys derived by HKDF-SHA-256.

    box       0x01, random nonce (12 bytes), ciphertext and tag; a key for each purpose
    content   "CTC1", random salt (32 bytes), chunks; a key for each content, derived from the salt
              chunk   AES-GCM of at most 64 KiB, all but the last of exactly that
              nonce   number of the chunk (11 bytes, big-endian), 0x00; for the last one 0x01
              the last chunk's additional data is the SHA-256 of the plain content
    name      HMAC-SHA-256 of the content's SHA-256, under a key of its own

The chunks are the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizar (CRYPTO 2015): none
can be changed, moved, left out or added unseen. The salt rather than the digest makes the content's
key, since a stream is encrypted before its digest is known and must not lie on disk in the clear.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from contree.domain.errors import ContentDamagedError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SALT_BYTES: Final = 32
CHUNK_BYTES: Final = 64 * 1024
MAGIC: Final = b"CTC1"

_BOX_VERSION: Final = b"\x01"
_STORED_CHUNK_BYTES: Final = CHUNK_BYTES + TAG_BYTES
_HEADER_BYTES: Final = len(MAGIC) + SALT_BYTES
_BOXES_KEPT: Final = 256


class AesCiphers:
    """Implements ProjectCiphers."""

    def new_key(self) -> bytes:
        return secrets.token_bytes(KEY_BYTES)

    def cipher(self, key: bytes) -> AesCipher:
        return AesCipher(key)


class AesCipher:
    """Implements ProjectCipher."""

    head_bytes: Final = _HEADER_BYTES

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ContentDamagedError(f"a data key has {len(key)} bytes instead of {KEY_BYTES}")
        self._key = key
        self._name_key = _derived(key, b"name")
        self.box = lru_cache(_BOXES_KEPT)(self._box)

    def name_of(self, sha256: str) -> str:
        return hmac.digest(self._name_key, bytes.fromhex(sha256), "sha256").hex()

    def encryption(self) -> AesEncryption:
        salt = secrets.token_bytes(SALT_BYTES)
        return AesEncryption(self._content_key(salt), MAGIC + salt)

    def decryption(self, sha256: str) -> AesDecryption:
        return AesDecryption(self._content_key, bytes.fromhex(sha256))

    def _box(self, purpose: str) -> AesBox:
        return AesBox(_derived(self._key, b"box " + purpose.encode()))

    def _content_key(self, salt: bytes) -> AESGCM:
        return AESGCM(_derived(self._key, b"content", salt))


class AesBox:
    """Implements Box."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, plain: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return _BOX_VERSION + nonce + self._cipher.encrypt(nonce, plain, _BOX_VERSION)

    def open(self, sealed: bytes) -> bytes:
        version, nonce, text = sealed[:1], sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        if version != _BOX_VERSION or len(text) < TAG_BYTES:
            raise ContentDamagedError("a sealed value is damaged or of an unknown version")
        try:
            return self._cipher.decrypt(nonce, text, version)
        except InvalidTag as error:
            raise ContentDamagedError("a sealed value is damaged") from error


class AesEncryption:
    """Implements Encryption."""

    def __init__(self, cipher: AESGCM, header: bytes) -> None:
        self._cipher = cipher
        self._unwritten = header
        self._held = bytearray()
        self._number = 0
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def update(self, plain: bytes) -> bytes:
        self._digest.update(plain)
        self.size_bytes += len(plain)
        self._held += plain
        made = [self._header()]
        # One byte more than a chunk: the last one, which may be full, is `finish`'s.
        while len(self._held) > CHUNK_BYTES:
            chunk = bytes(self._held[:CHUNK_BYTES])
            del self._held[:CHUNK_BYTES]
            made.append(self._cipher.encrypt(_nonce(self._number), chunk, None))
            self._number += 1
        return b"".join(made)

    def finish(self) -> bytes:
        nonce = _nonce(self._number, is_last=True)
        last = self._cipher.encrypt(nonce, bytes(self._held), self._digest.digest())
        return self._header() + last

    def _header(self) -> bytes:
        header, self._unwritten = self._unwritten, b""
        return header


class AesDecryption:
    """Implements Decryption."""

    def __init__(self, key_of: Callable[[bytes], AESGCM], digest: bytes) -> None:
        self._key_of = key_of
        self._digest = digest
        self._cipher: AESGCM | None = None
        self._held = bytearray()
        self._number = 0

    def update(self, stored: bytes) -> bytes:
        self._held += stored
        if self._cipher is None:
            if len(self._held) < _HEADER_BYTES:
                return b""
            self._cipher = self._started()
        made = []
        while len(self._held) > _STORED_CHUNK_BYTES:
            chunk = bytes(self._held[:_STORED_CHUNK_BYTES])
            del self._held[:_STORED_CHUNK_BYTES]
            made.append(_opened(self._cipher, _nonce(self._number), chunk, None))
            self._number += 1
        return b"".join(made)

    def go_to(self, offset: int) -> tuple[int, int]:
        if self._cipher is None:
            raise ContentDamagedError("stored content is cut short")
        self._held.clear()
        self._number = offset // CHUNK_BYTES
        return _HEADER_BYTES + self._number * _STORED_CHUNK_BYTES, self._number * CHUNK_BYTES

    def finish(self) -> bytes:
        if self._cipher is None:
            raise ContentDamagedError("stored content is cut short")
        nonce = _nonce(self._number, is_last=True)
        return _opened(self._cipher, nonce, bytes(self._held), self._digest)

    def _started(self) -> AESGCM:
        header = bytes(self._held[:_HEADER_BYTES])
        del self._held[:_HEADER_BYTES]
        if not header.startswith(MAGIC):
            raise ContentDamagedError("stored content is damaged or of an unknown version")
        return self._key_of(header[len(MAGIC) :])


def _opened(cipher: AESGCM, nonce: bytes, chunk: bytes, extra: bytes | None) -> bytes:
    try:
        return cipher.decrypt(nonce, chunk, extra)
    except (InvalidTag, ValueError) as error:
        raise ContentDamagedError("stored content is damaged") from error


def _nonce(number: int, *, is_last: bool = False) -> bytes:
    return number.to_bytes(NONCE_BYTES - 1, "big") + (b"\x01" if is_last else b"\x00")


def _derived(key: bytes, purpose: bytes, salt: bytes | None = None) -> bytes:
    info = b"contree project v1 " + purpose
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(key)
