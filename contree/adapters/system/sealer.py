"""Sealing of secrets under a key in a file (app.sealing.Sealer): AES-256-GCM and HMAC-SHA-256.

A sealed secret is one version byte, a random nonce and the ciphertext with its tag. The file holds
one master key, made at first use, readable by its owner only; the keys for sealing and for digests
are derived from it. Whoever has the file and the database can open what is sealed now, but not what
was destroyed before. It refuses a key file that others may read.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contree.adapters.system.key_file import make_once, others_may_read
from contree.domain.errors import ContreeError, OperationFailure

KEY_BYTES = 32
NONCE_BYTES = 12
"""96 bits, as NIST SP 800-38D recommends; random ones are good for 2**32 secrets a key."""
TAG_BYTES = 16
VERSION = b"\x01"


class SealingKeyError(ContreeError):
    """The key file cannot be used; the text says what to do about it."""

    code = "sealing_key"


class FileSealer:
    """Seals under the key in `keys_dir`/sealing.key."""

    def __init__(self, keys_dir: Path) -> None:
        """Read the key, making it first when there is none. Raises SealingKeyError."""
        master = _key_in(keys_dir / "sealing.key")
        self._cipher = AESGCM(hmac.digest(master, b"contree sealing v1", "sha256"))
        self._digest_key = hmac.digest(master, b"contree digest v1", "sha256")

    def seal(self, plain: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return VERSION + nonce + self._cipher.encrypt(nonce, plain, VERSION)

    def open(self, sealed: bytes) -> bytes:
        version, nonce, text = sealed[:1], sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        if version != VERSION or len(text) < TAG_BYTES:
            raise OperationFailure("the sealed secret is damaged or of an unknown version")
        try:
            return self._cipher.decrypt(nonce, text, version)
        except InvalidTag as error:
            raise OperationFailure(
                "the sealed secret was not sealed under this server's key: the key file was "
                "replaced, or the database belongs to another server; hosts of one deployment "
                "have the same keys/"
            ) from error

    def digest(self, plain: bytes) -> str:
        return hmac.digest(self._digest_key, plain, "sha256").hex()


def _key_in(path: Path) -> bytes:
    if not path.exists():
        make_once(path, secrets.token_bytes(KEY_BYTES))
    if others_may_read(path):
        raise SealingKeyError(f"'{path}' may be read by others: chmod 600 it")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise SealingKeyError(f"'{path}' has {len(key)} bytes instead of {KEY_BYTES}: restore it")
    return key
