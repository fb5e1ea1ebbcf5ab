"""Which types of events there are, and which of them a filter means."""

from __future__ import annotations

from collections.abc import Sequence

from contree.domain.aggregate import event_types
from contree.domain.errors import InvalidFieldError

SHOWN_CHARS = 64


def wanted_types(texts: Sequence[str], *, field: str = "type") -> tuple[str, ...] | None:
    """Return the types that any of `texts` means, None for no text: no condition.

    A text is a type, or with a dot at its end the beginning of types. Raises InvalidFieldError,
    naming all there are, for one that means none.
    """
    if not texts:
        return None
    known = event_types()
    found: set[str] = set()
    for text in texts:
        meant = [t for t in known if t == text or (text.endswith(".") and t.startswith(text))]
        if not meant:
            raise InvalidFieldError(
                field,
                f"'{text[:SHOWN_CHARS]}' is no type of event and, with a dot at its end, the "
                f"beginning of none; there are {', '.join(known)}",
            )
        found.update(meant)
    return tuple(sorted(found))
