"""The ProjectCipher contract, on the fake and on AES; then what only the real one promises."""

from __future__ import annotations

import hashlib

import pytest

from contree.adapters.system.project_cipher import CHUNK_BYTES, TAG_BYTES, AesCiphers
from contree.app.content.project_keys import ProjectCipher, ProjectCiphers
from contree.domain.errors import ContentDamagedError
from tests.fakes.project_keys import FakeCiphers

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7]


@pytest.fixture(params=["fake", "aes"])
def ciphers(request: pytest.FixtureRequest) -> ProjectCiphers:
    return FakeCiphers() if request.param == "fake" else AesCiphers()


@pytest.fixture
def cipher(ciphers: ProjectCiphers) -> ProjectCipher:
    return ciphers.cipher(ciphers.new_key())


def plain_of(size: int) -> bytes:
    return bytes(n % 251 for n in range(size))


def stored_of(cipher: ProjectCipher, plain: bytes, *, piece: int = 1000) -> bytes:
    encryption = cipher.encryption()
    made = [encryption.update(plain[at : at + piece]) for at in range(0, len(plain), piece)]
    made.append(encryption.finish())
    assert encryption.sha256 == hashlib.sha256(plain).hexdigest()
    assert encryption.size_bytes == len(plain)
    return b"".join(made)


def plain_from(cipher: ProjectCipher, stored: bytes, sha256: str, *, piece: int = 777) -> bytes:
    decryption = cipher.decryption(sha256)
    made = [decryption.update(stored[at : at + piece]) for at in range(0, len(stored), piece)]
    return b"".join([*made, decryption.finish()])


@pytest.mark.parametrize("size", SIZES)
def test_content_comes_back_whatever_pieces_it_goes_in(cipher: ProjectCipher, size: int) -> None:
    plain = plain_of(size)
    stored = stored_of(cipher, plain)
    assert plain_from(cipher, stored, hashlib.sha256(plain).hexdigest()) == plain
    assert plain[:100] not in stored or size < 8


def test_a_cipher_of_the_same_key_opens_it_and_of_another_does_not(
    ciphers: ProjectCiphers,
) -> None:
    key = ciphers.new_key()
    stored = stored_of(ciphers.cipher(key), b"plain")
    digest = hashlib.sha256(b"plain").hexdigest()
    assert plain_from(ciphers.cipher(key), stored, digest) == b"plain"
    with pytest.raises(ContentDamagedError):
        plain_from(ciphers.cipher(ciphers.new_key()), stored, digest)


@pytest.mark.parametrize("size", SIZES[1:])
def test_content_under_another_contents_name_is_found_out(cipher: ProjectCipher, size: int) -> None:
    stored = stored_of(cipher, plain_of(size))
    with pytest.raises(ContentDamagedError):
        plain_from(cipher, stored, hashlib.sha256(b"other").hexdigest())


def test_equal_content_is_stored_differently_under_one_name(cipher: ProjectCipher) -> None:
    digest = hashlib.sha256(b"plain").hexdigest()
    assert stored_of(cipher, b"plain") != stored_of(cipher, b"plain")
    assert cipher.name_of(digest) == cipher.name_of(digest)
    assert len(bytes.fromhex(cipher.name_of(digest))) == 32


def test_projects_do_not_share_names_and_names_are_not_digests(ciphers: ProjectCiphers) -> None:
    digest = hashlib.sha256(b"plain").hexdigest()
    names = {ciphers.cipher(ciphers.new_key()).name_of(digest) for _ in range(3)}
    assert len(names) == 3
    assert digest not in names


@pytest.mark.parametrize("plain", [b"", b"secret", plain_of(50_000)])
def test_a_box_opens_what_it_sealed_and_only_that(cipher: ProjectCipher, plain: bytes) -> None:
    sealed = cipher.box("one").seal(plain)
    assert cipher.box("one").open(sealed) == plain
    assert not plain or plain not in sealed
    assert cipher.box("one").seal(plain) != cipher.box("one").seal(plain) or not plain
    with pytest.raises(ContentDamagedError):
        cipher.box("two").open(sealed)


@pytest.mark.parametrize("length", [0, 1, 3, 20, -1])
def test_a_value_cut_short_is_refused(cipher: ProjectCipher, length: int) -> None:
    sealed = cipher.box("one").seal(b"secret")
    with pytest.raises(ContentDamagedError):
        cipher.box("one").open(sealed[:length])


def test_a_value_with_any_byte_changed_is_refused(cipher: ProjectCipher) -> None:
    sealed = cipher.box("one").seal(b"secret")
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        with pytest.raises(ContentDamagedError):
            cipher.box("one").open(bytes(damaged))


# -- what only the real one promises ----------------------------------------------------------

REAL = AesCiphers()
LONG = plain_of(3 * CHUNK_BYTES + 7)
HEADER_BYTES = 36
CHUNK = CHUNK_BYTES + TAG_BYTES


@pytest.mark.parametrize(
    "place", [0, 4, 35, HEADER_BYTES, HEADER_BYTES + CHUNK, HEADER_BYTES + 3 * CHUNK + 6, -1]
)
def test_any_change_of_stored_content_is_found(place: int) -> None:
    cipher = REAL.cipher(REAL.new_key())
    damaged = bytearray(stored_of(cipher, LONG))
    damaged[place] ^= 1
    with pytest.raises(ContentDamagedError):
        plain_from(cipher, bytes(damaged), hashlib.sha256(LONG).hexdigest())


@pytest.mark.parametrize(
    "order",
    [[1, 0, 2, 3], [0, 2, 3], [0, 1, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3, 3], [3], []],
    ids=["swapped", "left out", "doubled", "no end", "end twice", "end only", "head only"],
)
def test_chunks_cannot_be_rearranged(order: list[int]) -> None:
    cipher = REAL.cipher(REAL.new_key())
    stored = stored_of(cipher, LONG)
    chunks = [stored[at : at + CHUNK] for at in range(HEADER_BYTES, len(stored), CHUNK)]
    assert len(chunks) == 4
    tampered = stored[:HEADER_BYTES] + b"".join(chunks[number] for number in order)
    with pytest.raises(ContentDamagedError):
        plain_from(cipher, tampered, hashlib.sha256(LONG).hexdigest())


@pytest.mark.parametrize("length", [0, 20, HEADER_BYTES - 1])
def test_a_head_cut_short_is_refused(length: int) -> None:
    cipher = REAL.cipher(REAL.new_key())
    with pytest.raises(ContentDamagedError):
        plain_from(cipher, stored_of(cipher, LONG)[:length], hashlib.sha256(LONG).hexdigest())


def test_a_stream_is_never_held_whole() -> None:
    encryption = REAL.cipher(REAL.new_key()).encryption()
    held = 0
    for _ in range(64):
        held += CHUNK_BYTES - len(encryption.update(bytes(CHUNK_BYTES)))
        assert held <= CHUNK_BYTES + TAG_BYTES


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ContentDamagedError):
        REAL.cipher(b"short")
