"""Git for disks: paths that tell images apart, and what they give."""

from __future__ import annotations

from typing import Any

from contree.app.images.image_comparison import ChangeKind
from contree.http.images.diff import NDJSON, PATHS_MAX, DiffFormat
from contree.http.images.diff_value import DEVICES, TYPES
from contree.http.openapi.audit import AS_OF
from contree.http.openapi.operation import answer_, operation
from contree.http.openapi.parameters import FLAG, GUEST_PATH_TEXT, LIMIT, in_path, in_query
from contree.http.openapi.schemas import (
    BOOLEAN,
    INTEGER,
    SHA256,
    STRING,
    UUID,
    Schema,
    answer,
    array_of,
    map_of,
    nullable,
    ref,
)

_BASE64 = STRING | {"pattern": "^[A-Za-z0-9+/]*={0,2}$"}
CURSOR = STRING | {"pattern": "^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?$"}
PATHS = in_query(
    "path",
    array_of(GUEST_PATH_TEXT) | {"maxItems": PATHS_MAX},
    "Only this file, or this directory and all below it; may be repeated.",
)


def diff_paths() -> dict[str, Any]:
    content = {
        "application/json": {"schema": ref("ImageDiff")},
        NDJSON: {"schema": STRING},
        "text/plain": {"schema": STRING},
    }
    about = "A UUID, or `tag:NAME`."
    show = operation(
        "Tell two images apart",
        "images",
        answer_(200, content),
        parameters=(
            in_path("image", UUID) | {"description": about},
            in_path("other_image", UUID) | {"description": about},
            PATHS,
            in_query("format", {"enum": [form.value for form in DiffFormat]}),
            in_query("metadata", FLAG, "Also what differs in its time alone."),
            in_query("renames", FLAG, "`0`: renamed files are one removed and one added."),
            in_query("z", FLAG, "With `name-status`: names as they are, NUL after each."),
            in_query("binary", FLAG, "With `patch`: binary files as Git binary patches."),
            LIMIT,
            in_query("cursor", CURSOR, "The `next` of the page before."),
            AS_OF,
        ),
        errors=(400, 403, 404, 410),
    )
    return {
        "/v1/images/{image}/diff/{other_image}": {"get": show},
    }


def diff_schemas() -> dict[str, Schema]:
    """What differs, as JSON."""
    kinds = [kind.value for kind in ChangeKind]
    return {
        "ImageDiff": answer(
            {
                "from": UUID,
                "to": UUID,
                "base": nullable(UUID) | {"description": "nearest common ancestor"},
                "summary": ref("DiffSummary"),
                "changes": array_of(ref("ImageChange")),
                "next": nullable(STRING) | {"description": "`cursor` of the next page"},
            }
        ),
        "DiffSummary": answer(
            dict.fromkeys([*kinds, "bytes_before", "bytes_after"], INTEGER),
        ),
        "ImageChange": answer(
            {
                "path": STRING | {"description": "absolute; not UTF-8 in it is U+FFFD"},
                "path_base64": _BASE64 | {"description": "its bytes, when they are not UTF-8"},
                "change": {"enum": kinds},
                "from_path": STRING | {"description": "of a renamed file, where it was"},
                "from_path_base64": _BASE64,
                "before": nullable(ref("DiffEntry")),
                "after": nullable(ref("DiffEntry")),
                "content_changed": BOOLEAN,
            },
            optional=("path_base64", "from_path", "from_path_base64"),
        ),
        "DiffEntry": answer(
            {
                "type": {"enum": sorted(set(TYPES.values()))},
                "size": INTEGER,
                "mode": STRING | {"description": "permission bits, octal"},
                "uid": INTEGER,
                "gid": INTEGER,
                "mtime": STRING | {"description": "ISO 8601 with nanoseconds, UTC"},
                "sha256": nullable(SHA256)
                | {"description": "files; null for one that is stored with holes"},
                "target": STRING | {"description": "symbolic links"},
                "target_base64": _BASE64,
                "device": answer(
                    {
                        "kind": {"enum": list(DEVICES.values())},
                        "major": INTEGER,
                        "minor": INTEGER,
                    }
                ),
                "xattrs": map_of(_BASE64),
            },
            optional=("sha256", "target", "target_base64", "device"),
        ),
    }
