"""Settings: defaults, then a TOML file, then `CONTREED_*` variables, then command-line options.

The only reader of the environment. Names are the same everywhere: the option `--listen`, the key
`listen`, the variable `CONTREED_LISTEN`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import socket
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from contree.app.host import Host
from contree.app.limits import Limits
from contree.domain.errors import InvalidFieldError
from contree.domain.operation import Kind
from contree.worker.loop import Capacity
from contree.worker.room import FixedAdmission, GuestAdmission

PREFIX = "CONTREED_"
CONFIG = PREFIX + "CONFIG"
SUPERVISOR = "NOTIFY_SOCKET"
SOURCE_TREE = Path(__file__).resolve().parent.parent


def _default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/contree")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(base) / "contree"


def _default_worker_name() -> str:
    return socket.gethostname()


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a deployment decides. Sizes in the unit that the name ends in.

    data_dir              everything on this host lives below it, but for sockets
    listen                HOST:PORT of the API
    metrics_listen        HOST:PORT of GET /metrics of `serve`, `api` or `worker`; unset: none
    worker_metrics_listen  the same of the worker beside `serve`
    store                 s3://BUCKET/PREFIX, where all hosts of a deployment keep content and
                          layers; unset: below data_dir, for one host
    layer_cache_gib       how much of the disk copies of layers may take here, with a `store`
    database_url          PostgreSQL, as libpq has it; unset: an embedded server below data_dir;
                          "-", for a worker: read it from standard input
    database_owner_url    the role that may migrate and rebuild; unset: database_url
    libvirt_uri           unset: QEMU's embedded driver inside the worker
    accelerator           auto boots a probe guest under KVM and falls back to TCG
    kvm_probe_timeout     seconds that the probe guest may take; unset: 10, or 30 where
                          accelerator is kvm
    guest_kernel_dir      an unpacked kernel package: boot/vmlinuz-*, lib/modules/*
    guest_agent           the static agent binary
    worker_name           stable over restarts of the same worker
    instances_here        most runs at once on this worker; unset: as CPU and memory allow
    cpu_overcommit        vCPUs of running guests for each core
    memory_reserve_mib    memory of this host that guests leave to others
    warm_guests           guests that are restored when nothing is to be done, and wait for runs
    imports_here          imports at once on this worker
    import_allow          hosts, addresses and networks, by commas, that imports may reach though
                          they are not on the public internet
    pending_max_per_project  operations of one project that may wait; more are refused
    disk_reserve_mib      room below data_dir under which a worker takes on nothing
    drain_timeout         seconds that what runs may go on after the first SIGTERM or SIGINT
    checkpoint_interval   seconds between signed checkpoints of the log, at least
    checkpoints           where they are kept: a directory, or s3://BUCKET/PREFIX; unset: below
                          data_dir. Better somewhere the database's owner cannot write
    checkpoint_key        the private key that signs them; unset: below data_dir. Made with
                          the deployment, or where checkpoint_former_keys names the one before
    checkpoint_origin     the log's name in them; unset: one made from the key
    log_format            of the lines on stderr: text, or one JSON object each
    checkpoint_former_keys  public keys (`contreed audit key`) that signed before, by commas
    """

    data_dir: Path = msgspec.field(default_factory=_default_data_dir)
    listen: str = "127.0.0.1:8080"
    metrics_listen: str | None = None
    worker_metrics_listen: str | None = None
    store: str | None = None
    layer_cache_gib: Annotated[float, msgspec.Meta(gt=0)] | None = None
    database_url: str | None = None
    database_owner_url: str | None = None
    libvirt_uri: str | None = None
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    kvm_probe_timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    guest_kernel_dir: Path = SOURCE_TREE / ".cache/packages/linux-image-cloud-amd64"
    guest_agent: Path = SOURCE_TREE / "guest/build/agent"
    guest_memory_mib: int = 512
    guest_vcpu_count: int = 1
    worker_name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = msgspec.field(
        default_factory=_default_worker_name
    )
    instances_here: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cpu_overcommit: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    memory_reserve_mib: Annotated[int, msgspec.Meta(ge=0)] = 512
    warm_guests: Annotated[int, msgspec.Meta(ge=0)] = 0
    imports_here: int = 2
    import_allow: str = ""
    disk_reserve_mib: Annotated[int, msgspec.Meta(ge=0)] = 1024
    drain_timeout: Annotated[float, msgspec.Meta(ge=0)] = 900.0
    checkpoint_interval: float = 60.0
    checkpoints: str | None = None
    checkpoint_key: Path | None = None
    checkpoint_origin: str | None = None
    checkpoint_former_keys: str | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    instance_max_timeout: int = 3600
    instance_default_timeout: int = 300
    instance_max_concurrency: int = 10
    instance_max_layer_bytes: int = 12 * 1024**3
    images_import_max_concurrency: int = 5
    images_import_max_timeout: int = 3600
    upload_max_bytes: int = 12 * 1024**3
    pending_max_per_project: Annotated[int, msgspec.Meta(ge=1)] = 10_000

    @property
    def runtime_dir(self) -> Path:
        """Where sockets and scratch live: short (socket paths end at 107 bytes), same each time."""
        name = hashlib.sha256(os.fsencode(self.data_dir.resolve())).hexdigest()[:10]
        if os.geteuid() == 0 and Path("/run").is_dir():
            return Path("/run") / f"contree-{name}"
        base = os.environ.get("XDG_RUNTIME_DIR")
        if base and Path(base).is_dir():
            return Path(base) / f"contree-{name}"
        return Path("/tmp") / f"contree-{os.geteuid()}-{name}"  # noqa: S108 - made 0700, checked

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`. Raises InvalidFieldError."""
        return _address("listen", self.listen)

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of `metrics_listen`. Raises InvalidFieldError."""
        wanted = self.metrics_listen
        return None if wanted is None else _address("metrics_listen", wanted)

    @property
    def worker_metrics_address(self) -> tuple[str, int] | None:
        """Host and port of `worker_metrics_listen`. Raises InvalidFieldError."""
        wanted = self.worker_metrics_listen
        return None if wanted is None else _address("worker_metrics_listen", wanted)

    def guests(self, host: Host, held_bytes: Callable[[], int]) -> GuestAdmission:
        """How many guests `host` has room for; `held_bytes` gives the memory of those there are."""
        return GuestAdmission(
            host=host,
            held_bytes=held_bytes,
            memory_bytes=self.guest_memory_mib * 1024**2,
            vcpu_count=self.guest_vcpu_count,
            cpu_overcommit=self.cpu_overcommit,
            reserve_bytes=self.memory_reserve_mib * 1024**2,
            most=self.instances_here,
        )

    def capacity(self, guests: GuestAdmission) -> dict[Kind, Capacity]:
        """What a worker takes on."""
        imports = FixedAdmission(most=self.imports_here, setting="imports_here")
        return {
            Kind.INSTANCE: Capacity(here=guests, per_project=self.instance_max_concurrency),
            Kind.IMPORT: Capacity(here=imports, per_project=self.images_import_max_concurrency),
        }

    @property
    def limits(self) -> Limits:
        return Limits(
            instance_max_timeout_s=self.instance_max_timeout,
            instance_default_timeout_s=min(
                self.instance_default_timeout, self.instance_max_timeout
            ),
            instance_max_concurrency=self.instance_max_concurrency,
            instance_max_layer_bytes=self.instance_max_layer_bytes,
            images_import_max_concurrency=self.images_import_max_concurrency,
            images_import_max_timeout_s=self.images_import_max_timeout,
            upload_bytes_max=self.upload_max_bytes,
            pending_max_per_project=self.pending_max_per_project,
        )


def load_settings(
    options: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings; `options` with value None are not given.

    The TOML file is `options["config"]` or `CONTREED_CONFIG`.
    Raises InvalidFieldError naming the setting, also one that does not exist: what was meant by it
    would be left out silently.
    """
    env = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    known = [field.name for field in msgspec.structs.fields(Settings)]
    file = options.get("config") or env.get(CONFIG)
    if file:
        try:
            values.update(tomllib.loads(Path(file).read_text()))
        except (OSError, ValueError) as error:
            raise InvalidFieldError("config", f"cannot read '{file}': {error}") from error
        _refuse_unknown(values, known, said=f"is no setting, in '{file}'")
    variables = {n.removeprefix(PREFIX): v for n, v in env.items() if n.startswith(PREFIX)}
    _refuse_unknown(
        variables,
        [*(name.upper() for name in known), CONFIG.removeprefix(PREFIX)],
        prefix=PREFIX,
        said="is no setting, in the environment",
    )
    values.update({n: variables[n.upper()] for n in known if n.upper() in variables})
    values.update({n: v for n, v in options.items() if n in known and v is not None})
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), values) from error


def _refusal(said: str, values: Mapping[str, Any]) -> InvalidFieldError:
    """What msgspec says of a value, by the name of the setting and with what is allowed."""
    problem, _, name = said.partition(" - at `$.")
    name = name.rstrip("`")
    if name not in values:
        return InvalidFieldError("settings", said)
    kind = get_type_hints(Settings)[name]
    if get_origin(kind) is Literal:
        problem = f"use one of {', '.join(get_args(kind))}"
    return InvalidFieldError(name, f"'{values[name]}' is not allowed: {problem}")


def _refuse_unknown(
    names: Iterable[str], known: Sequence[str], *, said: str, prefix: str = ""
) -> None:
    for name in sorted(set(names).difference(known)):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {prefix}{near[0]}?" if near else ""
        raise InvalidFieldError(prefix + name, f"{said}{hint}")


def supervisor_address() -> str | None:
    """Where the supervisor of this process hears of its state, as sd_notify(3) has it."""
    address = os.environ.get(SUPERVISOR)
    return address.replace("@", "\0", 1) if address and address[0] == "@" else address or None


def worker_environment(settings: Settings, *, supervisor: Path) -> dict[str, str]:
    """The environment that gives a child process the same settings and another supervisor."""
    env = {k: v for k, v in os.environ.items() if k != CONFIG}
    env[SUPERVISOR] = str(supervisor)
    for field in msgspec.structs.fields(Settings):
        value = getattr(settings, field.name)
        if value is None:
            env.pop(PREFIX + field.name.upper(), None)
        else:
            env[PREFIX + field.name.upper()] = str(value)
    return env


def _address(setting: str, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - TCP
        raise InvalidFieldError(setting, f"'{value}' is not HOST:PORT")
    return host.strip("[]"), int(port)


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value).expanduser().absolute()
    raise NotImplementedError(f"settings of type {kind}")


def pager_of_user() -> str | None:
    """Return the command that the user reads long answers with (environ(7))."""
    return os.environ.get("PAGER")


def wants_no_colour() -> bool:
    """Say whether the user wants no colours in any program (no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))
