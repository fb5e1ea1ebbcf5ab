"""Parameters that several paths share."""

from __future__ import annotations

from typing import Any

from contree.domain.operation import Kind, Status
from contree.http.openapi.schemas import INTEGER, STRING, UUID, Schema
from contree.http.query import LIMIT_DEFAULT, LIMIT_MAX, OFFSET_MAX, SPID_MAX

Parameter = dict[str, Any]

TIME_FORMS = (
    "An interval back from now (`15m`; s, m, h, d, w), Unix seconds, or ISO 8601. Without a zone "
    "it is the server's local time."
)


def in_query(name: str, schema: Schema, about: str = "", *, required: bool = False) -> Parameter:
    parameter = {"name": name, "in": "query", "required": required, "schema": schema}
    return parameter | ({"description": about} if about else {})


def in_path(name: str, schema: Schema) -> Parameter:
    return {"name": name, "in": "path", "required": True, "schema": schema}


PROJECT: Parameter = {
    "name": "Project",
    "in": "header",
    "required": False,
    "schema": STRING | {"maxLength": 256},
    "description": "The project's id or name; it must be the token's own.",
}

LIMIT = in_query("limit", INTEGER | {"minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT})
ENTRIES_LIMIT = in_query("limit", INTEGER | {"minimum": 1, "maximum": LIMIT_MAX}, "Default: all.")
OFFSET = in_query("offset", INTEGER | {"minimum": 0, "maximum": OFFSET_MAX, "default": 0})
TIME = STRING | {
    "pattern": r"^([0-9]{1,6}[smhdw]|[0-9]{1,10}(\.[0-9]{1,6})?"
    r"|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])?)$"
}
SINCE = in_query("since", TIME, f"Created then or later. {TIME_FORMS}")
UNTIL = in_query("until", TIME, f"Created then or earlier. {TIME_FORMS}")
PAGE = [LIMIT, OFFSET, SINCE, UNTIL]

STATUS = in_query("status", {"enum": [status.value for status in Status]})
KIND = in_query("kind", {"enum": [kind.value for kind in Kind]})
RELATIVE_PATTERN = r"^(?!(.*/)?\.\.(/|$))[^\x00]*$"
FLAG = {"type": "string", "examples": ["", "1"]}

IMAGE_UUID = in_path("image_uuid", UUID)
OPERATION_UUID = in_path("operation_uuid", UUID)
SHA256 = in_path("sha256", STRING | {"pattern": "^[0-9a-fA-F]{64}$"})

SPID = in_path("spid", INTEGER | {"minimum": 1, "maximum": SPID_MAX})
SIGNAL = STRING | {
    "pattern": "^([1-9]|[1-5][0-9]|6[0-4]|(SIG)?(HUP|INT|QUIT|KILL|USR1|USR2|TERM|STOP|CONT))$"
}

GUEST_PATH_TEXT = STRING | {"minLength": 1, "pattern": RELATIVE_PATTERN}
GUEST_PATH = in_query(
    "path",
    GUEST_PATH_TEXT,
    "A path inside the image; a relative one starts at its root. No `..` component.",
    required=True,
)
TEXT = in_query("text", FLAG, "In any form: answer text instead.")
