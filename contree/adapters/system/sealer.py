"""Sealing of secrets under a key in a file (app.sealing.Sealer): AES-256-GCM and HMAC-SHA-256.

A sealed secret is one version byte, a random nonce and the ciphertext with its tag. The file holds
one master key, made at first use, readable by its owner only; the keys for sealing and for digests
are derived from it. Whoever has the file and the database can open what is sealed now, but not what
was destroyed before. It refuses a key file that others may read.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

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
                "replaced, or the database belongs to another server"
            ) from error

    def digest(self, plain: bytes) -> str:
        return hmac.digest(self._digest_key, plain, "sha256").hex()


def _key_in(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        _make_key(path)
    if path.stat().st_mode & 0o077:
        raise SealingKeyError(f"'{path}' may be read by others: chmod 600 it")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise SealingKeyError(f"'{path}' has {len(key)} bytes instead of {KEY_BYTES}: restore it")
    return key


def _make_key(path: Path) -> None:
    """Write a key aside and link it into place: of several that start at once, one wins whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
