"""Texts of others, as far as events repeat them."""

from __future__ import annotations

REASON_CHARS_MAX = 2000
"""Of why an operation ended or was lost."""

CUT = " [...] "


def bounded(text: str, *, chars_max: int = REASON_CHARS_MAX) -> str:
    """Return `text`, without its middle where it is too long: its end often says why."""
    if len(text) <= chars_max:
        return text
    end = chars_max // 4
    return text[: chars_max - end - len(CUT)] + CUT + text[len(text) - end :]
