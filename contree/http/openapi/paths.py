"""Paths and operations of the API."""

from __future__ import annotations

from typing import Any

from contree.http.openapi.audit import AS_OF, audit_paths
from contree.http.openapi.blame import blame_paths
from contree.http.openapi.diff import diff_paths
from contree.http.openapi.grep import grep_operation
from contree.http.openapi.image_log import log_paths
from contree.http.openapi.live_paths import live_paths
from contree.http.openapi.operation import (
    answer_,
    head_of,
    json_,
    json_body,
    open_operation,
    operation,
)
from contree.http.openapi.parameters import (
    ENTRIES_LIMIT,
    FLAG,
    GUEST_PATH,
    IMAGE_UUID,
    KIND,
    OFFSET,
    OPERATION_UUID,
    PAGE,
    SHA256,
    STATUS,
    TEXT,
    in_query,
)
from contree.http.openapi.schemas import NO_NUL, STRING, TAG_PATTERN, UUID, Schema, array_of, ref

TEXT_PLAIN = {"text/plain": {"schema": STRING}}
BYTES: Schema = {"type": "string", "format": "binary"}
LOCATION = {"Location": {"schema": STRING}}


def paths() -> dict[str, Any]:
    """Return the `paths` of the document."""
    return {
        "/": {"get": open_operation("Where to go on", ref("Root"), errors=())},
        "/healthz": {"get": open_operation("The process answers", ref("Health"), errors=())},
        "/readyz": {
            "get": open_operation("Requests will be carried out", ref("Health"), errors=(503,))
        },
        "/openapi.json": {"get": open_operation("This document", {"type": "object"}, errors=())},
        "/v1/whoami": {
            "get": operation("What the token is and may do", "auth", json_(ref("WhoAmI")))
        },
        **_image_paths(),
        **diff_paths(),
        **log_paths(),
        **blame_paths(),
        **_file_paths(),
        **_run_paths(),
        **live_paths(),
        **_inspect_paths(),
        **audit_paths(),
    }


def _image_paths() -> dict[str, Any]:
    listing = (
        *PAGE,
        in_query("tagged", FLAG, "Any value but `0`: only images that have a tag."),
        in_query("tag", STRING | {"pattern": NO_NUL}, "What tags begin with."),
        in_query("uuid", UUID),
        AS_OF,
    )
    assign = operation(
        "Point a tag at an image",
        "images",
        json_(ref("Image")),
        parameters=(IMAGE_UUID,),
        body=json_body("TagRequest"),
        errors=(400, 403, 404, 409, 410),
    )
    one_tag = in_query("tag", STRING | {"pattern": TAG_PATTERN, "maxLength": 256}, "Absent: all.")
    return {
        "/v1/images": {
            "get": operation(
                "List images, one row for each tag, the newest first",
                "images",
                json_(ref("ImageList")),
                parameters=listing,
                errors=(400, 403),
            )
        },
        "/v1/images/import": {
            "post": operation(
                "Import an image from an OCI registry",
                "images",
                json_(ref("Accepted"), status=201, headers=LOCATION),
                body=json_body("ImportRequest"),
                errors=(400, 403, 409, 410),
            )
        },
        "/v1/images/{image_uuid}/tag": {
            "patch": assign,
            "post": assign | {"summary": "The older form of PATCH"},
            "delete": operation(
                "Remove a tag of an image, or all of them",
                "images",
                answer_(204),
                parameters=(IMAGE_UUID, one_tag),
                errors=(400, 403, 404, 409, 410),
            ),
        },
    }


def _file_paths() -> dict[str, Any]:
    get = operation(
        "Ask for a file by its SHA-256",
        "files",
        json_(ref("File")),
        parameters=(SHA256,),
        errors=(400, 403, 404),
    )
    one = in_query("sha256", SHA256["schema"], "Older form of GET /v1/files/{sha256}.")
    return {
        "/v1/files": {
            "post": operation(
                "Upload content; equal content gives the same file",
                "files",
                json_(ref("UploadedFile"), status=201),
                body={"application/octet-stream": {"schema": BYTES}},
                errors=(400, 403, 409, 410),
            ),
            "get": operation(
                "List files, the newest first",
                "files",
                json_({"anyOf": [ref("FileList"), ref("File")]}),
                parameters=(*PAGE, one),
                errors=(400, 403, 404),
            ),
        },
        "/v1/files/{sha256}": {"get": get, "head": head_of(get)},
    }


def _run_paths() -> dict[str, Any]:
    retry_after = {"Retry-After": {"schema": {"type": "integer"}}}
    inflight = in_query("inflight", FLAG, "Add what a running command has written so far.")
    return {
        "/v1/instances": {
            "post": operation(
                "Run a command on an image",
                "instances",
                json_(ref("Instance"), status=201, headers=LOCATION),
                body=json_body("InstanceRequest"),
                errors=(400, 403, 404, 409, 410),
            )
        },
        "/v1/operations": {
            "get": operation(
                "List operations, the newest first",
                "operations",
                json_(array_of(ref("OperationSummary"))),
                parameters=(*PAGE, STATUS, KIND, AS_OF),
                errors=(400, 403),
            )
        },
        "/v1/operations/{operation_uuid}": {
            "get": operation(
                "Look at an operation",
                "operations",
                json_(ref("Operation"), headers=retry_after),
                parameters=(OPERATION_UUID, inflight, AS_OF),
                errors=(400, 403, 404),
            ),
            "delete": operation(
                "Cancel an operation",
                "operations",
                answer_(202),
                parameters=(OPERATION_UUID,),
                errors=(400, 403, 404, 409, 410),
            ),
        },
    }


def _inspect_paths() -> dict[str, Any]:
    in_image = (IMAGE_UUID, GUEST_PATH)
    redirect = answer_(307, headers=LOCATION)
    download = operation(
        "Read a file of an image",
        "inspect",
        answer_(200, {"application/octet-stream": {"schema": BYTES}, **TEXT_PLAIN}),
        parameters=(*in_image, TEXT),
        errors=(400, 403, 404, 410, 416, 422),
    )
    download["responses"] |= answer_(206, download["responses"]["200"]["content"])
    archive = operation(
        "Read a directory or file of an image as a tar",
        "inspect",
        answer_(200, {"application/x-tar": {"schema": BYTES}}),
        parameters=in_image,
        errors=(400, 403, 404, 410, 422),
    )
    find = operation(
        "Find an image by its tag",
        "inspect",
        answer_(302, headers=LOCATION),
        parameters=(
            in_query("tag", STRING | {"minLength": 1, "pattern": NO_NUL}, required=True),
            AS_OF,
        ),
        errors=(400, 403, 404),
    )
    get = operation(
        "Look at an image",
        "inspect",
        json_(ref("Image")),
        parameters=(IMAGE_UUID, AS_OF),
        errors=(400, 403, 404),
    )
    listing = operation(
        "List a directory of an image",
        "inspect",
        answer_(200, {"application/json": {"schema": ref("DirectoryList")}, **TEXT_PLAIN}),
        parameters=(*in_image, TEXT, ENTRIES_LIMIT, OFFSET),
        errors=(400, 403, 404, 410, 422),
    )
    add_slash = operation("Redirect to the form with a slash", "inspect", redirect)
    add_slash_to_image = operation(
        "Redirect to the form with a slash",
        "inspect",
        redirect,
        parameters=(IMAGE_UUID,),
        errors=(400,),
    )
    image = "/v1/inspect/{image_uuid}"
    return {
        "/v1/inspect": {"get": add_slash},
        "/v1/inspect/": {"get": find},
        image: {"get": add_slash_to_image},
        f"{image}/": {"get": get},
        f"{image}/list": {"get": listing},
        f"{image}/download": {"get": download, "head": head_of(download)},
        f"{image}/archive": {"get": archive, "head": head_of(archive)},
        f"{image}/grep": {"get": grep_operation()},
    }
