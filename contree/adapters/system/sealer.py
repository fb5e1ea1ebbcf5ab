"""Sealing of secrets under a key in a file (app.sealing.Sealer): AES-256-GCM and HMAC-SHA-256.

A sealed secret is one version byte, a random nonce and the ciphertext with its tag. The file holds
one master key, readable by its owner only; the keys for sealing and for digests are derived from
it. It is never made only because it is missing: nobody would notice that what another one sealed
cannot be opened any more. Whoever has the file and the database can open what is sealed now, but
not what was destroyed before. It refuses a key file that others may read.
"""

from __future__ import annotations

import hmac
import secrets
from functools import cached_property
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
    """Seals under the key in `keys_dir`/sealing.key; each method raises SealingKeyError."""

    def __init__(self, keys_dir: Path) -> None:
        self._path = keys_dir / "sealing.key"

    def prepare(self, *, make: bool) -> None:
        """Read the key now, not when it is first used; with `make`, make it if there is none."""
        if make and not self._path.exists():
            make_once(self._path, secrets.token_bytes(KEY_BYTES))
        _ = self._master

    @cached_property
    def _master(self) -> bytes:
        return _key_in(self._path)

    @cached_property
    def _cipher(self) -> AESGCM:
        return AESGCM(hmac.digest(self._master, b"contree sealing v1", "sha256"))

    @cached_property
    def _digest_key(self) -> bytes:
        return hmac.digest(self._master, b"contree digest v1", "sha256")

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
    try:
        if others_may_read(path):
            raise SealingKeyError(f"'{path}' may be read by others: chmod 600 it")
        key = path.read_bytes()
    except FileNotFoundError as error:
        raise SealingKeyError(
            f"there is no '{path}', and no other key opens what this deployment has sealed: copy "
            "keys/ from another of its hosts, or restore it from the backup"
        ) from error
    if len(key) != KEY_BYTES:
        raise SealingKeyError(f"'{path}' has {len(key)} bytes instead of {KEY_BYTES}: restore it")
    return key
