"""How bytes that a process wrote are shown in JSON: as text when plain ASCII, else as base64."""

from __future__ import annotations

from base64 import b64encode

_PLAIN = bytes(range(0x20, 0x7F)) + b"\t\n\r"


def represent(data: bytes) -> tuple[str, str]:
    """Return (value, encoding): `ascii` when every byte is 0x20..0x7e, tab, LF or CR.

    Source: the hosted API's StreamRepr.
    """
    if not data.translate(None, delete=_PLAIN):
        return data.decode("ascii"), "ascii"
    return b64encode(data).decode("ascii"), "base64"


def cut_at_character(data: bytes) -> bytes:
    """Return `data` without an incomplete UTF-8 character at its end (one that a cap has cut)."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return data[: error.start]
    return data
