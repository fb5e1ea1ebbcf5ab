"""A project's data key, and what is encrypted under it: content, journals, environment values.

Destroying the key destroys all of that at once, wherever copies of it are. The log holds what was
encrypted for good (a sealed value is part of the event that its hash covers), or its digest.

The key is made at the project's first use and lives beside the log, wrapped by the deployment's key
(app.sealing). ProjectKeys is implemented by adapters.postgres, ProjectCiphers by adapters.system;
tests/contracts/test_project_keys.py and test_project_cipher.py.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID


class Box(Protocol):
    """Seals small values for one purpose: what is sealed for another does not open here."""

    def seal(self, plain: bytes) -> bytes:
        """Equal values are sealed differently each time."""
        ...

    def open(self, sealed: bytes) -> bytes:
        """Raise ContentDamagedError when it was not sealed in this box, or was changed."""
        ...


class Encryption(Protocol):
    """Encrypts one content as it comes, with bounded memory. Blocking, a GB/s or so."""

    def update(self, plain: bytes) -> bytes:
        """Return the next of what is stored, possibly nothing."""
        ...

    def finish(self) -> bytes:
        """Return the last of what is stored; `sha256` and `size_bytes` are known then."""
        ...

    @property
    def sha256(self) -> str:
        """Of the plain content, lower-case hex."""
        ...

    @property
    def size_bytes(self) -> int: ...


class Decryption(Protocol):
    """Decrypts what an Encryption made. What comes out was authenticated; what is missing at the
    end, or is another content of the same project, is found by `finish`.
    """

    def update(self, stored: bytes) -> bytes:
        """Return the next of the plain content. Raises ContentDamagedError."""
        ...

    def finish(self) -> bytes:
        """Return the rest. Raises ContentDamagedError."""
        ...

    def go_to(self, offset: int) -> tuple[int, int]:
        """Go to where the plain byte `offset` is, which there must be.

        Called once, after the first `ProjectCipher.head_bytes` of what is stored. Returns from
        which stored byte on to give more, and which plain byte comes out first.
        """
        ...


class ProjectCipher(Protocol):
    """Everything that one data key does. Safe in threads; holds the key in memory."""

    def box(self, purpose: str) -> Box:
        """The same purpose gives a box for the same values. A box is good for 2**32 of them."""
        ...

    def name_of(self, sha256: str) -> str:
        """Under which name (hex) content is stored: it tells nothing of the content."""
        ...

    def encryption(self) -> Encryption: ...

    @property
    def head_bytes(self) -> int:
        """How much of what is stored a Decryption needs before it can be sent anywhere in it."""
        ...

    def decryption(self, sha256: str) -> Decryption:
        """For the content with this digest (lower-case hex)."""
        ...


class ProjectCiphers(Protocol):
    """Makes keys, and ciphers of keys."""

    def new_key(self) -> bytes:
        """Return fresh random bytes."""
        ...

    def cipher(self, key: bytes) -> ProjectCipher: ...


class ProjectKeys(Protocol):
    """The data keys of all projects. They are destroyed by the event ProjectErased, in its
    transaction, and never made anew.
    """

    async def cipher(self, project_id: UUID) -> ProjectCipher:
        """Return the cipher of the project as of now; its key is made when it has none.

        Raises ContentErasedError and UnavailableError.
        """
        ...
