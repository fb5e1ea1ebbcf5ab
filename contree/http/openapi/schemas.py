"""JSON Schemas of the values that the API gives, and what schemas are made of."""

from __future__ import annotations

from typing import Any

from contree.domain.operation import Kind, Status
from contree.domain.token import Permission

Schema = dict[str, Any]

NO_NUL = r"^[^\x00]*$"
OOM_KILLED = "memory ran out, and the kernel killed the process or one that it started"
TAG_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_-]*([:/.][A-Za-z0-9_-]+)*$"

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
UUID: Schema = {"type": "string", "format": "uuid"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def array_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def map_of(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def answer(properties: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """A value we give: every key is there but the `optional` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def value_schemas() -> dict[str, Schema]:
    """What the API gives."""
    return {
        "Error": answer(
            {
                "error": {"type": "string", "description": "what is wrong, for people"},
                "status": {"type": "integer", "description": "the HTTP status"},
                "code": {"type": "string", "description": "what is wrong, for programs; stable"},
                "field": {"type": "string", "description": "the field that is to blame"},
            },
            optional=("field",),
        ),
        "Root": answer(
            {
                "name": {"const": "contree"},
                "links": answer(dict.fromkeys(("openapi", "ready", "alive"), STRING)),
                "docs": STRING,
            }
        ),
        "Health": answer({"status": {"enum": ["alive", "ready"]}}),
        "WhoAmI": answer(
            {
                "token_uuid": UUID,
                "token_expiration": nullable(INTEGER | {"description": "Unix seconds"}),
                "permissions": {
                    "type": "object",
                    "properties": {p.value: BOOLEAN for p in Permission},
                    "required": [p.value for p in Permission],
                },
                "limits": map_of(INTEGER),
                "operations_stat": map_of(INTEGER | {"description": "operations by status"}),
            }
        ),
        "Image": answer(
            {
                "uuid": UUID,
                "tag": nullable(STRING),
                "created_at": MOMENT,
                "operation_uuid": nullable(UUID),
            }
        ),
        "ImageList": answer({"images": array_of(ref("Image"))}),
        "Accepted": answer({"uuid": UUID | {"description": "the operation"}}),
        "UploadedFile": answer({"uuid": UUID, "sha256": SHA256, "size": INTEGER}),
        "File": answer(
            {
                "uuid": UUID,
                "sha256": SHA256,
                "size": INTEGER,
                "created_at": MOMENT,
                "updated_at": MOMENT,
            }
        ),
        "FileList": answer({"files": array_of(ref("File"))}),
        "FileItem": _file_item(),
        "DirectoryList": answer({"path": STRING, "files": array_of(ref("FileItem"))}),
        **_operation_schemas(),
        **_run_schemas(),
    }


def _file_item() -> Schema:
    flags = ("is_dir", "is_regular", "is_symlink", "is_socket", "is_fifo")
    numbers = ("size", "uid", "gid", "mtime", "nlink")
    return answer(
        {
            "path": STRING | {"description": "the bare name"},
            "owner": STRING,
            "group": STRING,
            "mode": INTEGER | {"description": "st_mode, file type bits included"},
            "symlink_to": STRING | {"description": "empty when it is no symbolic link"},
            **dict.fromkeys(numbers, INTEGER),
            **dict.fromkeys(flags, BOOLEAN),
        }
    )


def _operation_schemas() -> dict[str, Schema]:
    summary: dict[str, Schema] = {
        "uuid": UUID,
        "kind": {"enum": [kind.value for kind in Kind]},
        "status": {"enum": [status.value for status in Status]},
        "error": nullable(STRING),
        "created_at": MOMENT,
        "duration": NUMBER | {"description": "seconds; 0 while nobody has begun"},
        "image_size": nullable(INTEGER | {"description": "bytes of the new layer or layers"}),
        "consumed_cpu": nullable(NUMBER | {"description": "seconds, user and system"}),
        "consumed_memory": nullable(INTEGER | {"description": "peak resident set, KiB"}),
        "image_uuid": nullable(UUID),
        "result_image_uuid": nullable(UUID),
    }
    result = {"image": nullable(UUID), "tag": nullable(STRING)}
    return {
        "OperationSummary": answer(summary),
        "Operation": answer(
            {
                **summary,
                "metadata": {"anyOf": [ref("InstanceMetadata"), ref("ImportMetadata")]},
                "result": nullable(
                    answer(
                        {**result, "stdout": ref("Stream"), "stderr": ref("Stream")},
                        optional=("stdout", "stderr"),
                    )
                ),
            }
        ),
        "EventFrame": answer(
            {
                "id": STRING | {"description": "rising within the operation"},
                "event": STRING | {"description": "the type, or `sse_error` at a break"},
                "data": STRING | {"description": "JSON: id, ts, spid (process), type, data"},
            },
            optional=("id",),
        ),
        "ImportMetadata": answer(
            {
                "registry": answer(
                    {
                        "url": STRING,
                        "credentials": answer({"username": STRING, "password": STRING}),
                    },
                    optional=("credentials",),
                ),
                "tag": nullable(STRING),
                "timeout": INTEGER,
            }
        ),
    }


def _run_schemas() -> dict[str, Schema]:
    flags = ("shell", "disposable", "preserve_env", "preserve_cwd")
    owner = {"uid": INTEGER, "gid": INTEGER}
    placement = answer({"uuid": UUID, **owner, "mode": STRING, "unpack": BOOLEAN})
    request: dict[str, Schema] = {
        **dict.fromkeys(("command", "cwd", "hostname"), STRING),
        **dict.fromkeys(("uid", "gid", "timeout", "truncate_output_at"), INTEGER),
        **dict.fromkeys(flags, BOOLEAN),
        "image": UUID,
        "args": array_of(STRING),
        "env": map_of(nullable(STRING)) | {"description": "secret values show as <MASKED>"},
        "stdin": answer(
            {"value": STRING, "encoding": STRING, "close": BOOLEAN, "truncated": BOOLEAN}
        ),
        "files": map_of(placement),
        "resources_limits": answer({"max_layer_bytes": INTEGER}),
        "networking": answer({"enabled": BOOLEAN}),
        "result": nullable(ref("InstanceResult")),
    }
    whole = (
        *("block_input", "block_output", "involuntary_switches", "max_rss", "page_faults"),
        *("page_faults_io", "shared_memory", "signals", "swaps", "unshared_memory"),
        "voluntary_switches",
    )
    decimal = ("cost", "elapsed_time", "monotonic_time", "system_cpu_time", "user_cpu_time")
    return {
        "Stream": answer(
            {"value": STRING, "encoding": {"enum": ["ascii", "base64"]}, "truncated": BOOLEAN}
        ),
        "InstanceResult": answer(
            {
                "resources": answer(dict.fromkeys(whole, INTEGER) | dict.fromkeys(decimal, NUMBER)),
                "state": answer(
                    dict.fromkeys(("exit_code", "signal", "pid"), INTEGER)
                    | dict.fromkeys(("timed_out", "core_dump", "continued", "stopped"), BOOLEAN)
                    | {"oom_killed": BOOLEAN | {"description": OOM_KILLED}}
                ),
                "stdout": ref("Stream"),
                "stderr": ref("Stream"),
            }
        ),
        "Subprocess": answer({"spid": INTEGER | {"minimum": 2, "description": "its number"}}),
        "InstanceMetadata": answer(
            request | {"replay_of": UUID, "truncated": BOOLEAN}, optional=("replay_of", "truncated")
        ),
        "Instance": answer({"uuid": UUID, **request}),
    }
