"""JSON Schemas of the bodies that the API takes: what decode.py reads, with all bounds."""

from __future__ import annotations

from contree.app.limits import Limits
from contree.domain.instance import (
    HOSTNAME_BYTES_MAX,
    ID_MAX,
    MAX_LAYER_BYTES_MIN,
    OUTPUT_BYTES_MAX,
)
from contree.domain.tag import TAG_CHARS_MAX
from contree.http.decode import MODE_MAX
from contree.http.openapi.schemas import (
    BOOLEAN,
    INTEGER,
    NO_NUL,
    STRING,
    TAG_PATTERN,
    UUID,
    Schema,
    array_of,
    map_of,
    nullable,
)

IMAGE_PATTERN = (
    "^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    "|tag:[A-Za-z0-9][A-Za-z0-9_-]*([:/.][A-Za-z0-9_-]+)*)$"
)
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
URL_PATTERN = (
    rf"^(docker|oci)://({_LABEL}(\.{_LABEL}){{1,7}}|localhost)(:[1-9][0-9]{{0,3}})?"
    r"/(?![^:@]{248})[a-z0-9]{1,64}((\.|_|__|-{1,4}|/)[a-z0-9]{1,64}){0,32}"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)
# No NUL byte and no component `..`; `(?!...)` is in ECMA 262, which JSON Schema names.
PATH_PATTERN = r"^/(?!(.*/)?\.\.(/|$))[^\x00]*$"
VARIABLE_PATTERN = r"^[^\x00=]+$"
BASE64_PATTERN = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
MODE_PATTERN = "^(0o)?(1[0-7]{5}|0?[0-7]{1,5})$"


NAMED_SECRETS = (
    "names in `env` whose values are secrets: masked, never recorded, not kept by `preserve_env`; "
    "names that look like secrets are so without it"
)


def body(properties: dict[str, Schema], *, required: tuple[str, ...]) -> Schema:
    """A value we take: null stands for the default wherever a key is not required."""
    return {
        "type": "object",
        "properties": {
            name: schema if name in required else nullable(schema)
            for name, schema in properties.items()
        },
        "required": list(required),
    }


def request_schemas(limits: Limits) -> dict[str, Schema]:
    """What the API takes."""
    tag = STRING | {"pattern": TAG_PATTERN, "maxLength": TAG_CHARS_MAX}
    credentials = {
        "username": {"type": "string", "pattern": r"^[^\x00-\x1f\x7f]*$"},
        "password": {"type": "string", "pattern": r"^[^\x00-\x1f\x7f]*$"},
    }
    registry = body(
        {
            "url": STRING | {"pattern": URL_PATTERN},
            "credentials": body(credentials, required=()),
        },
        required=("url",),
    )
    return {
        "TagRequest": body({"tag": tag}, required=("tag",)),
        "ImportRequest": body(
            {
                "registry": registry,
                "tag": tag,
                "timeout": _seconds(
                    limits.images_import_max_timeout_s, limits.images_import_default_timeout_s
                ),
            },
            required=("registry",),
        ),
        "InstanceRequest": body(_run_request(limits), required=("command", "image")),
        "SubprocessRequest": body(_process_request(), required=("command",)),
        "Stdin": _stdin(),
    }


def _seconds(high: int, default: int) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": high, "default": default}


def _stdin() -> Schema:
    close = BOOLEAN | {"default": True}
    text = {"value": STRING, "encoding": {"const": "ascii"}, "close": close}
    binary = {
        "value": STRING | {"pattern": BASE64_PATTERN},
        "encoding": {"const": "base64"},
        "close": close,
    }
    return {
        "anyOf": [
            body(text, required=("value",)) | {"description": "text, as UTF-8"},
            body(binary, required=("value", "encoding")),
        ]
    }


def _process_request() -> dict[str, Schema]:
    """What every process is asked for with, the main one too."""
    argument = STRING | {"pattern": NO_NUL}
    user = INTEGER | {"minimum": 0, "maximum": ID_MAX, "default": 0}
    return {
        "command": argument | {"minLength": 1},
        "args": array_of(argument),
        "shell": BOOLEAN | {"default": False},
        "env": map_of(nullable(argument)) | {"propertyNames": {"pattern": VARIABLE_PATTERN}},
        "secret_env": array_of(STRING) | {"description": NAMED_SECRETS},
        "cwd": {"anyOf": [{"const": ""}, STRING | {"pattern": PATH_PATTERN}]},
        "uid": user,
        "gid": user,
        "stdin": _stdin(),
        "truncate_output_at": INTEGER | {"minimum": 0, "maximum": OUTPUT_BYTES_MAX},
    }


def _run_request(limits: Limits) -> dict[str, Schema]:
    argument = STRING | {"pattern": NO_NUL}
    user = INTEGER | {"minimum": 0, "maximum": ID_MAX, "default": 0}
    path = {"pattern": PATH_PATTERN}
    layer_bytes = {"minimum": MAX_LAYER_BYTES_MIN, "maximum": limits.instance_max_layer_bytes}
    flag = BOOLEAN | {"default": False}
    mode = {
        "anyOf": [
            STRING | {"pattern": MODE_PATTERN},
            {"type": "integer", "minimum": 0, "maximum": MODE_MAX},
        ]
    }
    owned = {"uuid": UUID, "uid": user, "gid": user}
    placement = {
        "anyOf": [
            body({**owned, "mode": mode, "unpack": {"const": False}}, required=("uuid",)),
            body(
                {**owned, "mode": {"type": "null"}, "unpack": {"const": True}},
                required=("uuid", "unpack"),
            )
            | {"description": "an archive (tar, tar.gz, tar.zst, zip), unpacked at the path"},
        ]
    }
    return {
        **_process_request(),
        "image": STRING | {"pattern": IMAGE_PATTERN, "maxLength": TAG_CHARS_MAX + 4},
        "hostname": argument | {"minLength": 1, "maxLength": HOSTNAME_BYTES_MAX},
        "timeout": _seconds(limits.instance_max_timeout_s, limits.instance_default_timeout_s),
        "disposable": flag,
        "preserve_env": flag,
        "preserve_cwd": flag,
        "files": map_of(placement) | {"propertyNames": path | {"minLength": 2}},
        "resources_limits": body({"max_layer_bytes": INTEGER | layer_bytes}, required=()),
        "networking": body({"enabled": BOOLEAN | {"default": True}}, required=()),
    }
