"""Environments: what a process gets, what is kept, and which values are secrets."""

from __future__ import annotations

from collections.abc import Mapping

from contree.domain.errors import InvalidFieldError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = "<MASKED>"
SEALED = "<SEALED>"
"""Stands for a value that is sealed beside it, under the project's key."""
ERASED = "<ERASED>"
"""Stands for such a value when the key is no more."""
SECRET_SUFFIXES = ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "CREDENTIALS", "AUTHORIZATION")
ENTRIES_MAX = 4096
ENTRY_BYTES_MAX = 128 * 1024
"""MAX_ARG_STRLEN of Linux: one `NAME=value` string."""


def is_secret(name: str) -> bool:
    """Say whether the value under `name` must never enter the log."""
    return name.upper().endswith(SECRET_SUFFIXES)


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


def masked(env: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return `env` with the values of secret names replaced."""
    return {n: MASKED if v is not None and is_secret(n) else v for n, v in env.items()}


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
