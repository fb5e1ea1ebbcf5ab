"""Ed25519 for signed notes (app.proof.note_keys): a private key in a file, and verification.

The file is PEM (PKCS #8), as openssl reads it, for its owner only. Whoever
has it can sign any history: keep a copy offline, and give the public key (`contreed audit key`) to
those who will check.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from contree.adapters.system.key_file import make_once, others_may_read
from contree.domain.errors import ContreeError
from contree.domain.note import VerifierKey


class SigningKeyError(ContreeError):
    """The key file cannot be used; the text says what to do about it."""

    code = "signing_key"


class FileNoteSigner:
    """Signs with the key in a file (app.proof.note_keys.NoteSigner)."""

    def __init__(self, path: Path, *, name: str | None = None, make: bool = True) -> None:
        """Read the key, making it first when there is none and `make`. Raises SigningKeyError.

        Without `name` it is `contree/` and the beginning of the public key's SHA-256: another
        name for another key, the same wherever the file is.
        """
        if make and not path.exists():
            make_once(path, _new_key())
        self._private = _key_in(path)
        public = self._private.public_key().public_bytes_raw()
        if name is None:
            name = f"contree/{hashlib.sha256(public).hexdigest()[:12]}"
        self.key = VerifierKey(name=name, public_key=public)

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


def is_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Implements app.proof.note_keys.SignatureCheck."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _new_key() -> bytes:
    made = Ed25519PrivateKey.generate()
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _key_in(path: Path) -> Ed25519PrivateKey:
    try:
        if others_may_read(path):
            raise SigningKeyError(f"'{path}' may be read by others: chmod 600 it")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise SigningKeyError(
            f"there is no signing key '{path}' here: copy it from another host of this deployment, "
            "or restore it from the backup; a worker makes a new one where checkpoint_former_keys "
            "names the old"
        ) from error
    except OSError as error:
        raise SigningKeyError(f"the signing key cannot be read: {error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"'{path}' is not a private key in PEM: restore it") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"'{path}' is not an Ed25519 key")
    return key
