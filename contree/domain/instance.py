"""What an instance is asked to do: the normalised request, and how it becomes a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol
from uuid import UUID

from contree.domain.environment import DEFAULT_PATH, check_environment
from contree.domain.errors import InvalidFieldError
from contree.domain.guest_path import PATH_BYTES_MAX, parse_guest_path
from contree.domain.placement import check_files, check_new_path, normalised
from contree.domain.spec_body import Body

OUTPUT_BYTES_DEFAULT = 1024 * 1024
OUTPUT_BYTES_MAX = 10 * 1024 * 1024
MAX_LAYER_BYTES_DEFAULT = 12 * 1024**3
MAX_LAYER_BYTES_MIN = 4096
"""What a guest sends of a run that changed nothing fits in."""

HOSTNAME_DEFAULT = "linuxkit"
HOSTNAME_BYTES_MAX = 64
ARGS_MAX = 4096
ARG_BYTES_MAX = 128 * 1024
PROCESS_BYTES_MAX = 1024 * 1024 - 64
"""Of argv, env and cwd together, as `process_bytes` counts: what a guest takes in one piece."""

STRING_COST_BYTES = 4
"""What each string takes on its way into the guest beside its own bytes."""

FILES_MAX = 20_000
FILE_PATHS_BYTES_MAX = 1024 * 1024
"""Of the paths of all files of a request together."""

ID_MAX = 2**32 - 2
FILE_MODE_MASK = 0o7777


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlacement:
    """An uploaded file to put into the guest before the command starts.

    unpack  the file is an archive, and its entries go below the path; `mode` means nothing then,
            and `uid` and `gid` are the archive's unless they are given here and not 0
    """

    file_id: UUID
    uid: int = 0
    gid: int = 0
    mode: int = 0o644
    unpack: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdin:
    """Initial standard input; the bytes are in the content store.

    close  end of file follows the bytes; otherwise the stream stays open for later writes
    """

    sha256: str
    size_bytes: int
    encoding: str = "ascii"
    close: bool = True


class ProcessFields(Protocol):
    """What every process is described by, the main one and subprocesses."""

    @property
    def command(self) -> str: ...
    @property
    def args(self) -> tuple[str, ...]: ...
    @property
    def shell(self) -> bool: ...
    @property
    def env(self) -> Mapping[str, str | None]: ...
    @property
    def cwd(self) -> str: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def output_bytes_max(self) -> int: ...


def check_process(spec: ProcessFields) -> None:
    """Raise InvalidFieldError naming the first field out of its bounds (the API's names).

    What an image adds to the environment is not known here: `require_fitting` is for that.
    """
    if not spec.command:
        raise InvalidFieldError("command", "is empty, name an executable or a shell expression")
    if len(spec.args) > ARGS_MAX:
        raise InvalidFieldError("args", f"has {len(spec.args)} entries, at most {ARGS_MAX}")
    for name, text in (
        ("command", spec.command),
        *((f"args[{i}]", a) for i, a in enumerate(spec.args)),
    ):
        if "\0" in text:
            raise InvalidFieldError(name, "has a NUL byte")
        if _size_bytes(text) >= ARG_BYTES_MAX:
            raise InvalidFieldError(name, f"longer than {ARG_BYTES_MAX - 1} bytes")
    if not spec.shell and _size_bytes(spec.command) >= PATH_BYTES_MAX:
        raise InvalidFieldError(
            "command",
            f"names an executable, at most {PATH_BYTES_MAX - 1} bytes; shell: true runs a script",
        )
    check_environment(spec.env)
    if spec.cwd:
        parse_guest_path(spec.cwd, field="cwd")
    for name, value, high in (
        ("uid", spec.uid, ID_MAX),
        ("gid", spec.gid, ID_MAX),
        ("truncate_output_at", spec.output_bytes_max, OUTPUT_BYTES_MAX),
    ):
        if not 0 <= value <= high:
            raise InvalidFieldError(name, f"is {value}, allowed are 0 to {high}")
    # An unset variable, and `args` in shell mode, reach no guest: the log they would reach.
    env = {"PATH": DEFAULT_PATH, **{n: v or "" for n, v in spec.env.items()}}
    shell = process_argv(spec, env)[:-1] if spec.shell else ()
    require_fitting((*shell, spec.command, *spec.args), env, spec.cwd or "/")


def process_bytes(argv: Iterable[str], env: Mapping[str, str], cwd: str) -> int:
    """How many bytes the description of a process takes on its way into the guest."""
    strings = (*argv, *(f"{name}={value}" for name, value in env.items()), cwd)
    return sum(_size_bytes(text) + STRING_COST_BYTES for text in strings)


def require_fitting(argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
    """Raise InvalidFieldError, naming the larger one of `args` and `env`, for what is too large."""
    total_bytes = process_bytes(argv, env, cwd)
    if total_bytes <= PROCESS_BYTES_MAX:
        return
    env_bytes = process_bytes((), env, "")
    raise InvalidFieldError(
        "env" if 2 * env_bytes > total_bytes else "args",
        f"command, args, env and cwd take {total_bytes} bytes together ({env_bytes} of them env), "
        f"at most {PROCESS_BYTES_MAX}: put what is large into a file",
    )


def process_argv(spec: ProcessFields, env: Mapping[str, str]) -> tuple[str, ...]:
    """The argument vector under the process environment `env`; shell mode ignores `args`."""
    if spec.shell:
        return (env.get("SHELL") or "/bin/sh", "-c", spec.command)
    return (spec.command, *spec.args)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One run, with every default filled. `env` holds no secret: see `domain.environment`.

    body                what is long is in the content store: see `domain.spec_body`
    env_sealed          the values that `env` shows as `<SEALED>`, under the project's key; None
                        when `env` has them itself (app.content.project_environment)
    timeout_s           wall clock of the main process, seconds
    output_bytes_max    bytes kept of each of stdout and stderr
    max_layer_bytes     bound on what the run may leave behind
    env_digests         keyed digest of each masked value, so that equality can be shown
    """

    image_id: UUID
    command: str
    args: tuple[str, ...] = ()
    shell: bool = False
    env: Mapping[str, str | None] = field(default_factory=dict)
    env_digests: Mapping[str, str] = field(default_factory=dict)
    env_sealed: str | None = field(default=None, repr=False)
    cwd: str = ""
    uid: int = 0
    gid: int = 0
    hostname: str = HOSTNAME_DEFAULT
    stdin: Stdin | None = None
    body: Body | None = None
    timeout_s: int
    output_bytes_max: int = OUTPUT_BYTES_DEFAULT
    max_layer_bytes: int = MAX_LAYER_BYTES_DEFAULT
    disposable: bool = False
    preserve_env: bool = False
    preserve_cwd: bool = False
    files: Mapping[str, FilePlacement] = field(default_factory=dict)
    networking: bool = True

    def check(self) -> None:
        """Raise InvalidFieldError naming the first field out of its bounds (the API's names)."""
        check_process(self)
        if not 1 <= _size_bytes(self.hostname) <= HOSTNAME_BYTES_MAX or "\0" in self.hostname:
            raise InvalidFieldError("hostname", f"must have 1 to {HOSTNAME_BYTES_MAX} bytes")
        if not MAX_LAYER_BYTES_MIN <= self.max_layer_bytes <= 2**53:
            raise InvalidFieldError(
                "resources_limits.max_layer_bytes",
                f"is {self.max_layer_bytes}, allowed are {MAX_LAYER_BYTES_MIN} to {2**53}",
            )
        if self.cwd:
            check_new_path(self.cwd, field="cwd", keeps_image=not self.disposable)
        self._check_files()

    def _check_files(self) -> None:
        if len(self.files) > FILES_MAX:
            raise InvalidFieldError("files", f"has {len(self.files)} entries, at most {FILES_MAX}")
        if (paths_bytes := sum(map(_size_bytes, self.files))) > FILE_PATHS_BYTES_MAX:
            raise InvalidFieldError(
                "files", f"the paths take {paths_bytes} bytes, at most {FILE_PATHS_BYTES_MAX}"
            )
        files = normalised(self.files)
        unpacked = {path for path, placement in files.items() if placement.unpack}
        check_files(files, directories=unpacked, keeps_image=not self.disposable)
        for path, placement in self.files.items():
            for name, value, high in (
                ("uid", placement.uid, ID_MAX),
                ("gid", placement.gid, ID_MAX),
                ("mode", placement.mode, FILE_MODE_MASK),
            ):
                if not 0 <= value <= high:
                    raise InvalidFieldError(
                        f"files['{path}'].{name}", f"is {value}, allowed are 0 to {high}"
                    )

    def argv(self, env: Mapping[str, str]) -> tuple[str, ...]:
        """The argument vector under the process environment `env`.

        Shell mode runs `$SHELL -c command` and ignores `args`, as the API has it.
        """
        return process_argv(self, env)

    def to_fact(self) -> dict[str, Any]:
        """The JSON form that events carry."""
        fact = asdict(self)
        fact["image_id"] = str(self.image_id)
        fact["args"] = list(self.args)
        for placement in fact["files"].values():
            placement["file_id"] = str(placement["file_id"])
        return fact

    @classmethod
    def from_fact(cls, fact: Mapping[str, Any]) -> InstanceSpec:
        """Read what `to_fact` wrote."""
        values = dict(fact)
        stdin = values.get("stdin")
        values["args"] = tuple(values["args"])
        values["image_id"] = UUID(values["image_id"])
        values["stdin"] = None if stdin is None else Stdin(**stdin)
        values["body"] = Body.from_fact(values.get("body"))
        values["files"] = {
            path: FilePlacement(**{**placement, "file_id": UUID(placement["file_id"])})
            for path, placement in values["files"].items()
        }
        return cls(**values)


def _size_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
