"""Environments: what a process gets, what is kept, and which values are secrets."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from contree.domain.errors import InvalidFieldError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = "<MASKED>"
SEALED = "<SEALED>"
"""Stands for a value that is sealed beside it, under the project's key."""
ERASED = "<ERASED>"
"""Stands for such a value when the key is no more."""
_SECRET_NAME = re.compile(
    r"""
    .*(TOKEN|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTHORIZATION|APIKEY)
    | (.*_)?(PASS|PAT|JWT|DSN|CONNECTION_STRING)
    | .+_PWD                                    # PWD itself is a directory
    | .+_(?<!PUBLIC_)KEY
    | (.*_)?(SECRET|PRIVATE)_KEY_(BASE|BASE64|B64|PEM)
    | (.*_)?(DATABASE|DB|POSTGRES|POSTGRESQL|PG|MYSQL|MONGO|MONGODB|REDIS|AMQP|RABBITMQ|BROKER
            |WEBHOOK)_UR[IL]                    # they have a password in them
    """,
    re.VERBOSE,
)
ENTRIES_MAX = 4096
ENTRY_BYTES_MAX = 128 * 1024
"""MAX_ARG_STRLEN of Linux: one `NAME=value` string."""


def is_secret(name: str) -> bool:
    """Say whether the value under `name` must never enter the log, to judge by the name.

    Case does not matter, and neither does what stands between words. Others
    (`AWS_ACCESS_KEY_ID`, `TOKEN_LIMIT`, `PASSWORD_FILE`) are secrets only if the request says so.
    """
    return _SECRET_NAME.fullmatch(re.sub(r"[^A-Z0-9]", "_", name.upper())) is not None


def secrets_of(env: Mapping[str, str | None], secret_env: Collection[str]) -> dict[str, str]:
    """Return the values of `env` that are secrets: by their names, or because `secret_env` says so.

    Raises InvalidFieldError when it names what `env` has not: a secret would stay in clear.
    """
    for name in secret_env:
        if name not in env:
            raise InvalidFieldError("secret_env", f"'{name[:100]}' is not in env")
    return {n: v for n, v in env.items() if v is not None and (is_secret(n) or n in secret_env)}


def check_environment(env: Mapping[str, str | None]) -> None:
    """Raise InvalidFieldError naming the first entry that execve(2) could not carry."""
    if len(env) > ENTRIES_MAX:
        raise InvalidFieldError("env", f"has {len(env)} entries, at most {ENTRIES_MAX}")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidFieldError("env", f"'{name}' is not a variable name")
        if value is not None and "\0" in value:
            raise InvalidFieldError(f"env.{name}", "has a NUL byte")
        if len(f"{name}={value}".encode("utf-8", "surrogateescape")) >= ENTRY_BYTES_MAX:
            raise InvalidFieldError(f"env.{name}", f"longer than {ENTRY_BYTES_MAX - 1} bytes")


def masked(env: Mapping[str, str | None], secret_env: Collection[str]) -> dict[str, str | None]:
    """Return `env` with secret values replaced: those named, and those that look like it."""
    return {
        n: MASKED if v is not None and (n in secret_env or is_secret(n)) else v
        for n, v in env.items()
    }


def process_environment(
    *,
    image_env: Mapping[str, str],
    preserved_env: Mapping[str, str],
    request_env: Mapping[str, str | None],
    hostname: str,
    shell: bool,
) -> dict[str, str]:
    """Return what the process gets, but for HOME, whose default only the guest knows.

    PATH and HOSTNAME have defaults, as in Docker. The imported ENV of the image applies in shell
    mode only; what `preserve_env` stored applies in both; the request comes on top, where None
    unsets.
    """
    env: dict[str, str] = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if shell:
        env.update(image_env)
    env.update(preserved_env)
    for name, value in request_env.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def environment_to_preserve(
    *,
    image_env: Mapping[str, str],
    preserved_env: Mapping[str, str],
    request_env: Mapping[str, str | None],
) -> dict[str, str]:
    """Return what `preserve_env` stores: image and request merged, None or "" deletes."""
    merged: dict[str, str | None] = {**image_env, **preserved_env, **request_env}
    return {name: value for name, value in merged.items() if value}
