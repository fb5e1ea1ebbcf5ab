"""The OpenAPI document that `GET /openapi.json` serves: what this server does, and nothing else.

Written by hand beside the handlers; tests/api holds the server to it with generated requests.
Parts: `schemas` (what we give), `requests` (what we take), `parameters`, `paths`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from contree.app.limits import Limits
from contree.http.openapi.audit import audit_schemas
from contree.http.openapi.blame import blame_schemas
from contree.http.openapi.diff import diff_schemas
from contree.http.openapi.grep import grep_schemas
from contree.http.openapi.image_log import log_schemas
from contree.http.openapi.paths import paths
from contree.http.openapi.replay import replay_schemas
from contree.http.openapi.requests import request_schemas
from contree.http.openapi.schemas import value_schemas

API_VERSION = "1.0.0"

DESCRIPTION = """\
Runs commands on immutable filesystem images, each in a microVM of its own.

An *image* never changes. An *instance* is one command run on an image; it leaves a new image
behind unless it is disposable. Imports and instances are *operations*: the request is answered at
once, and the operation tells what became of it. A *tag* names an image and may move. Everything
belongs to the project of the token.
"""


@lru_cache(maxsize=4)
def document(limits: Limits) -> dict[str, Any]:
    """Return the document of a server with these limits, as JSON values."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Contree API", "version": API_VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token from `contreed token create`. It belongs to one "
                    "project; a `Project` header may name that project, by id or name.",
                }
            },
            "schemas": value_schemas()
            | diff_schemas()
            | log_schemas()
            | blame_schemas()
            | grep_schemas()
            | audit_schemas()
            | replay_schemas()
            | request_schemas(limits),
        },
    }
