"""Signed notes: the published vectors of the reference implementation, and what is refused.

Key and note are those of the tests of golang.org/x/mod/sumdb/note (note_test.go), which C2SP
signed-note describes.
"""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.system.note_keys import is_signature
from contree.domain.errors import InvalidFieldError
from contree.domain.note import NOTE_BYTES_MAX, Note, Signature, VerifierKey

VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PRIVATE = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb"
    "6KE6RyyBwJnAM=\n"
)
NOTE = f"{TEXT}\n{LINE}"


def test_the_published_note_is_right_and_written_the_same() -> None:
    note, key = Note.parse(NOTE.encode()), VerifierKey.parse(VKEY)
    (signature,) = note.signatures
    assert note.text == TEXT
    assert signature.is_of(key)
    assert is_signature(key.public_key, note.text.encode(), signature.value)
    assert not is_signature(key.public_key, note.text.upper().encode(), signature.value)
    assert (str(note), str(key)) == (NOTE, VKEY)


def test_signing_with_the_published_key_gives_the_published_note() -> None:
    private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(PRIVATE)[1:])
    key = VerifierKey(name="PeterNeumann", public_key=private.public_key().public_bytes_raw())
    value = private.sign(TEXT.encode())
    signature = Signature(name=key.name, key_id=key.key_id, value=value)
    assert str(key) == VKEY
    assert str(Note(text=TEXT, signatures=[signature])) == NOTE


def test_no_part_and_no_neighbour_of_a_key_is_a_key() -> None:
    parts = {VKEY[i:j] for i in range(len(VKEY)) for j in range(i, len(VKEY) + 1)} - {VKEY}
    near = {VKEY[:i] + chr(ord(VKEY[i]) + 1) + VKEY[i + 1 :] for i in range(len(VKEY))}
    for text in parts | near:
        with pytest.raises(InvalidFieldError, match="key"):
            VerifierKey.parse(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        TEXT.encode(),
        NOTE.encode()[:-1],
        NOTE.replace("\n\n", "\n").encode(),
        NOTE.replace("— ", "- ").encode(),
        NOTE.replace("— ", "—").encode(),
        NOTE.replace("PeterNeumann ", "").encode(),
        NOTE.replace("PeterNeumann ", "Peter+Neumann ").encode(),
        NOTE.replace("=\n", "\n").encode(),
        NOTE.replace("JnAM=", "JnAN=").encode(),  # the same bytes, written in another way
        f"{NOTE}\n".encode(),
        f"{TEXT}\n— PeterNeumann x08gow==\n".encode(),  # a key's id and no signature
        NOTE.replace("\n", "\r\n").encode(),
        NOTE.replace("think", "thi\0nk").encode(),
        NOTE.encode().replace(b"think", b"thi\xffnk"),
        b"x" * NOTE_BYTES_MAX + NOTE.encode(),
    ],
)
def test_what_is_no_note_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFieldError, match="note"):
        Note.parse(data)


def test_signatures_of_others_are_carried_along() -> None:
    other = LINE.replace("PeterNeumann", "witness.example/w")
    note = Note.parse(f"{NOTE}{other}".encode())
    assert [s.name for s in note.signatures] == ["PeterNeumann", "witness.example/w"]
    assert str(note) == f"{NOTE}{other}"


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\x01"])
def test_a_key_has_a_name_that_fits_a_line(name: str) -> None:
    with pytest.raises(InvalidFieldError, match="key"):
        VerifierKey(name=name, public_key=bytes(32))


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(InvalidFieldError, match="32 bytes"):
        VerifierKey(name="a", public_key=bytes(33))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_note_or_an_error(data: bytes) -> None:
    try:
        note = Note.parse(data)
    except InvalidFieldError:
        return
    assert str(note).encode() == data
