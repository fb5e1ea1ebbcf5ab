"""JSON bodies to the orders that the use cases take.

Types are strict and errors name the field; unknown keys are ignored and null means the default,
since the published clients send both. What a value may *be* (limits, grammar, existence) is the
use cases' to say: this module only says whether it has the right form.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

from contree.app.guest.steer_instance import SubprocessOrder
from contree.app.images.image_source import Credentials
from contree.app.images.request_import import ImportOrder
from contree.app.request_run import RunOrder, StdinOrder
from contree.domain.errors import InvalidFieldError
from contree.domain.instance import (
    FILE_MODE_MASK,
    HOSTNAME_DEFAULT,
    OUTPUT_BYTES_DEFAULT,
    FilePlacement,
)
from contree.http.query import parse_uuid

T = TypeVar("T")

Number = int | float
"""JSON has one kind of number: 60 and 60.0 are the same integer (JSON Schema, 6.1.1)."""

OCTAL_MODE = re.compile(r"(?:0o)?([0-7]{1,7})", re.ASCII)
MODE_DEFAULT = 0o644
MODE_MAX = 0o177777
"""st_mode with its file type bits: some clients send those, and they are dropped."""

MISSING_FIELD = re.compile(r"Object missing required field `([^`]*)`")
ERROR_PATH = re.compile(r"(.*) - at `(?:key in )?\$\.?(.*)`", re.DOTALL)


class _Credentials(msgspec.Struct):
    username: str | None = None
    password: str | None = None


class _Registry(msgspec.Struct):
    url: str
    credentials: _Credentials | None = None


class _Replay(msgspec.Struct):
    env: dict[str, str] | None = None


class _Import(msgspec.Struct):
    registry: _Registry
    tag: str | None = None
    timeout: Number | None = None


class _Tag(msgspec.Struct):
    tag: str


class _Stdin(msgspec.Struct):
    value: str
    encoding: Literal["ascii", "base64"] | None = None
    close: bool | None = None


class _File(msgspec.Struct):
    uuid: str
    uid: Number | None = None
    gid: Number | None = None
    mode: str | Number | None = None
    unpack: bool | None = None


class _Exec(msgspec.Struct):
    command: str
    args: list[str] | None = None
    shell: bool | None = None
    env: dict[str, str | None] | None = None
    secret_env: list[str] | None = None
    cwd: str | None = None
    uid: Number | None = None
    gid: Number | None = None
    stdin: _Stdin | None = None
    truncate_output_at: Number | None = None


class _ResourcesLimits(msgspec.Struct):
    max_layer_bytes: Number | None = None


class _Networking(msgspec.Struct):
    enabled: bool | None = None


class _Run(msgspec.Struct):
    command: str
    image: str
    args: list[str] | None = None
    shell: bool | None = None
    env: dict[str, str | None] | None = None
    secret_env: list[str] | None = None
    cwd: str | None = None
    uid: Number | None = None
    gid: Number | None = None
    hostname: str | None = None
    stdin: _Stdin | None = None
    timeout: Number | None = None
    truncate_output_at: Number | None = None
    disposable: bool | None = None
    preserve_env: bool | None = None
    preserve_cwd: bool | None = None
    files: dict[str, msgspec.Raw] | None = None
    resources_limits: _ResourcesLimits | None = None
    networking: _Networking | None = None


def decode_import(body: bytes) -> ImportOrder:
    """Read the body of `POST /images/import`. Raises InvalidFieldError."""
    sent = _decode(body, _Import)
    return ImportOrder(
        registry_url=sent.registry.url,
        credentials=_credentials(sent.registry.credentials),
        tag=sent.tag,
        timeout_s=_whole(sent.timeout, "timeout"),
    )


def decode_tag(body: bytes) -> str:
    """Read the body of `PATCH /images/{uuid}/tag`. Raises InvalidFieldError."""
    return _decode(body, _Tag).tag


def decode_run(body: bytes) -> RunOrder:
    """Read the body of `POST /instances`. Raises InvalidFieldError."""
    sent = _decode(body, _Run)
    limits = sent.resources_limits
    layer_bytes = None if limits is None else limits.max_layer_bytes
    output_bytes = _whole(sent.truncate_output_at, "truncate_output_at")
    networking = None if sent.networking is None else sent.networking.enabled
    return RunOrder(
        image=sent.image,
        command=sent.command,
        args=tuple(sent.args or ()),
        shell=bool(sent.shell),
        env=sent.env or {},
        secret_env=frozenset(sent.secret_env or ()),
        cwd=sent.cwd or "",
        uid=_whole(sent.uid, "uid") or 0,
        gid=_whole(sent.gid, "gid") or 0,
        hostname=HOSTNAME_DEFAULT if sent.hostname is None else sent.hostname,
        stdin=None if sent.stdin is None else _stdin(sent.stdin),
        timeout_s=_whole(sent.timeout, "timeout"),
        output_bytes_max=OUTPUT_BYTES_DEFAULT if output_bytes is None else output_bytes,
        disposable=bool(sent.disposable),
        preserve_env=bool(sent.preserve_env),
        preserve_cwd=bool(sent.preserve_cwd),
        files=_files(sent.files or {}),
        max_layer_bytes=_whole(layer_bytes, "resources_limits.max_layer_bytes"),
        networking=True if networking is None else networking,
    )


def decode_subprocess(body: bytes) -> SubprocessOrder:
    """Read the body of `POST .../subprocesses`. Raises InvalidFieldError."""
    sent = _decode(body, _Exec)
    output_bytes = _whole(sent.truncate_output_at, "truncate_output_at")
    return SubprocessOrder(
        command=sent.command,
        args=tuple(sent.args or ()),
        shell=bool(sent.shell),
        env=sent.env or {},
        secret_env=frozenset(sent.secret_env or ()),
        cwd=sent.cwd or "",
        uid=_whole(sent.uid, "uid") or 0,
        gid=_whole(sent.gid, "gid") or 0,
        stdin=None if sent.stdin is None else _stdin(sent.stdin),
        output_bytes_max=OUTPUT_BYTES_DEFAULT if output_bytes is None else output_bytes,
    )


def decode_stdin(body: bytes) -> tuple[bytes, bool]:
    """Read the body of `POST .../stdin`: the bytes, and whether the end follows them."""
    sent = _decode(body, _Stdin)
    return _stdin_bytes(sent, field=""), sent.close is not False


def decode_replay(body: bytes) -> dict[str, str]:
    """Read the body of `POST .../replay`: the secret values by variable."""
    return _decode(body, _Replay).env or {}


def _decode(body: bytes, type_: type[T], *, within: str = "") -> T:
    """Decode JSON; `within` is the field that `body` was cut out of, for the error's path."""
    if not body:
        raise InvalidFieldError("body", "is empty, send a JSON object")
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), within=within) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidFieldError("body", f"is not valid JSON: {error}") from error


def _refusal(text: str, *, within: str) -> InvalidFieldError:
    """Turn msgspec's message, ``problem - at `$.path` ``, into our error."""
    problem, path = text, ""
    if match := ERROR_PATH.fullmatch(text):
        problem, path = match[1], match[2]
    names = [name for name in (within, path) if name]
    if match := MISSING_FIELD.fullmatch(problem):
        return InvalidFieldError(".".join([*names, match[1]]), "is missing")
    problem = problem.replace("`", "'")
    return InvalidFieldError(".".join(names) or "body", problem[0].lower() + problem[1:])


def _whole(number: Number | None, field: str) -> int | None:
    """Return the integer that `number` is. Raises InvalidFieldError when it is none."""
    if isinstance(number, float):
        if not number.is_integer():
            raise InvalidFieldError(field, f"{number} is not a whole number")
        return int(number)
    return number


def _credentials(sent: _Credentials | None) -> Credentials | None:
    """An empty pair is an anonymous pull: some clients always send one."""
    if sent is None or not (sent.username or sent.password):
        return None
    return Credentials(
        username=_plain_text(sent.username or "", field="registry.credentials.username"),
        password=_plain_text(sent.password or "", field="registry.credentials.password"),
    )


def _plain_text(text: str, *, field: str) -> str:
    """Return `text`. Raises InvalidFieldError when it has a control character."""
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):  # noqa: PLR2004 - below blank, DEL
        raise InvalidFieldError(field, "has a control character")
    return text


def _stdin(sent: _Stdin) -> StdinOrder | None:
    """Decode standard input; nothing to write and then the end is the same as none.

    Text goes as UTF-8 under the label `ascii`: the published SDK puts any string there.
    """
    data, close = _stdin_bytes(sent, field="stdin."), sent.close is not False
    if close and not data:
        return None
    return StdinOrder(data=data, encoding=sent.encoding or "ascii", close=close)


def _stdin_bytes(sent: _Stdin, *, field: str) -> bytes:
    if sent.encoding != "base64":
        return sent.value.encode("utf-8")
    try:
        return b64decode("".join(sent.value.split()), validate=True)
    except (Base64Error, ValueError) as error:
        raise InvalidFieldError(f"{field}value", "is not valid base64") from error


def _files(sent: Mapping[str, msgspec.Raw]) -> dict[str, FilePlacement]:
    placements = {}
    for path, raw in sent.items():
        field = f"files['{path}']"
        file = _decode(bytes(raw), _File, within=field)
        placements[path] = FilePlacement(
            file_id=parse_uuid(file.uuid, field=f"{field}.uuid"),
            uid=_whole(file.uid, f"{field}.uid") or 0,
            gid=_whole(file.gid, f"{field}.gid") or 0,
            mode=_mode(file.mode, field=f"{field}.mode"),
            unpack=bool(file.unpack),
        )
        if file.unpack and file.mode is not None:
            raise InvalidFieldError(f"{field}.mode", "leave it out: the archive has the modes")
    return placements


def _mode(sent: str | Number | None, *, field: str) -> int:
    """Read "0644", "0o100644" (octal, with file type bits) or a number."""
    if sent is None:
        return MODE_DEFAULT
    if isinstance(sent, str):
        match = OCTAL_MODE.fullmatch(sent)
        number = -1 if match is None else int(match[1], 8)
    else:
        number = _whole(sent, field) or 0
    if not 0 <= number <= MODE_MAX:
        raise InvalidFieldError(field, f"'{sent}' is not a file mode, use octal such as '0644'")
    return number & FILE_MODE_MASK
