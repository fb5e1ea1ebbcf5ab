"""The search of an image: its operation and what it gives."""

from __future__ import annotations

from contree.app.images.image_search import LINE_TEXT_BYTES_MAX, CaseMode
from contree.http.images.grep import (
    CONTEXT_LINES_MAX,
    COUNT_MAX,
    PATTERN_CHARS_MAX,
    REPEATED_MAX,
    TOTAL_DEFAULT,
)
from contree.http.openapi.operation import Operation, json_, operation
from contree.http.openapi.parameters import GUEST_PATH_TEXT, IMAGE_UUID, Parameter, in_query
from contree.http.openapi.schemas import (
    BOOLEAN,
    INTEGER,
    NO_NUL,
    STRING,
    Schema,
    answer,
    array_of,
    ref,
)

_TEXT = STRING | {"pattern": NO_NUL, "maxLength": PATTERN_CHARS_MAX}
_COUNT = INTEGER | {"minimum": 1, "maximum": COUNT_MAX}
_CONTEXT = INTEGER | {"minimum": 0, "maximum": CONTEXT_LINES_MAX, "default": 0}


def grep_operation() -> Operation:
    return operation(
        "Search the contents of an image's files with ripgrep",
        "inspect",
        json_(ref("GrepResult")),
        parameters=(
            IMAGE_UUID,
            _repeated("pattern", _TEXT, "A Rust regular expression; any of them.", at_least=1),
            _repeated("path", GUEST_PATH_TEXT, "What to search; `/` when there is none."),
            _repeated("glob", _TEXT, "As `rg -g` in the image's root; `!` leaves out."),
            in_query("max_count", _COUNT, "Matching lines of one file."),
            in_query("max_total", _COUNT | {"default": TOTAL_DEFAULT}, "Matching lines in all."),
            in_query("case", {"enum": [mode.value for mode in CaseMode]}),
            in_query("before", _CONTEXT, "Lines of context before each match."),
            in_query("after", _CONTEXT, "Lines of context after each match."),
        ),
        errors=(400, 403, 404, 410),
    )


def _repeated(name: str, schema: Schema, about: str, *, at_least: int = 0) -> Parameter:
    several = array_of(schema) | {"maxItems": REPEATED_MAX, "minItems": at_least}
    return in_query(name, several, about, required=at_least > 0)


def grep_schemas() -> dict[str, Schema]:
    """What a search gives."""
    text = f"lossy UTF-8 with the line's terminator, at most {LINE_TEXT_BYTES_MAX} bytes"
    return {
        "GrepResult": answer(
            {
                "path": STRING | {"description": "the first path that was asked for"},
                "patterns": array_of(STRING),
                "matches": array_of(ref("GrepMatch")),
                "truncated": BOOLEAN | {"description": "there may be more"},
            }
        ),
        "GrepMatch": answer(
            {
                "path": STRING,
                "line_number": INTEGER,
                "absolute_offset": INTEGER | {"description": "of the line in the file, in bytes"},
                "line_text": STRING | {"description": text},
                "line_bytes": INTEGER | {"description": "the line's real length"},
                "submatches": array_of(answer({"text": STRING, "start": INTEGER, "end": INTEGER})),
                "type": {"enum": ["match", "context"]},
            }
        ),
    }
