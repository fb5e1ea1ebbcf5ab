"""Pulls images with skopeo, a child process for each pull.

The process gets everything it may use by argument: a policy, an authfile, no registries.conf but
an empty one. It reads no configuration of this machine but trusted certificates, keeps no cache,
and what it writes goes when the pull ends. Credentials travel in a file of mode 0600 in a
directory of mode 0700, never on a command line or in an environment.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from contree.adapters.registry.failures import failure_from, for_log, storage_full_from
from contree.adapters.registry.manifest import read_pulled_image
from contree.adapters.registry.reference import RegistryReference, parse_reference
from contree.app.images.image_source import Credentials, PulledImage
from contree.domain.errors import RegistryFailure
from contree.programs import SETPRIV, SKOPEO, Program

IMAGE_BYTES_MAX = 32 * 1024**3
"""Compressed. Bounds what a registry can make this worker write before anything is checked."""
STDERR_CHUNK_BYTES = 4096
STDERR_CHUNKS_KEPT = 8
SIZE_CHECK_INTERVAL_S = 0.5
PRIVATE_PREFIX = "pull-"
PASSED_ON = (
    *("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""What of the environment reaches skopeo."""

log = logging.getLogger(__name__)


class SkopeoImageSource:
    """An ImageSource (app.images.image_source) on the skopeo program.

    work_dir         of this worker alone, made when absent; holds each pull's private directory
    environment      of this process: PASSED_ON says what skopeo gets of it
    image_bytes_max  bound on the compressed image
    """

    def __init__(
        self,
        work_dir: Path,
        *,
        environment: Mapping[str, str] | None = None,
        skopeo: Program = SKOPEO,
        image_bytes_max: int = IMAGE_BYTES_MAX,
    ) -> None:
        self._work_dir = work_dir
        given = os.environ if environment is None else environment
        self._environment = {name: given[name] for name in PASSED_ON if name in given}
        self._skopeo = skopeo
        self._image_bytes_max = image_bytes_max

    def check_url(self, url: str) -> str:
        """See ImageSource."""
        return parse_reference(url).url

    def sweep(self) -> None:
        """Remove what a killed predecessor left in `work_dir`. Not while pulls are under way."""
        for leftover in self._work_dir.glob(f"{PRIVATE_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @asynccontextmanager
    async def pull(
        self, url: str, *, credentials: Credentials | None, timeout_s: float
    ) -> AsyncIterator[PulledImage]:
        """See ImageSource."""
        reference = parse_reference(url)
        self._work_dir.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=PRIVATE_PREFIX, dir=self._work_dir))
        try:
            await self._copy(reference, private, credentials=credentials, timeout_s=timeout_s)
            yield await asyncio.to_thread(
                read_pulled_image, private / "image", bytes_max=self._image_bytes_max
            )
        finally:
            # A few dozen files at most: not worth a thread that a cancellation could outrun.
            shutil.rmtree(private, ignore_errors=True)

    async def _copy(
        self,
        reference: RegistryReference,
        private: Path,
        *,
        credentials: Credentials | None,
        timeout_s: float,
    ) -> None:
        authfile = private / "auth.json"
        _write_authfile(authfile, reference.host, credentials)
        process = await _started(
            *self._command(reference, private, authfile),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**self._environment, "HOME": str(private), "XDG_RUNTIME_DIR": str(private)},
            cwd=private,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout_s):
                stderr = await self._watch(process, private)
        except TimeoutError:
            raise RegistryFailure(
                f"{reference.host}: the registry was too slow, the pull took longer than"
                f" {timeout_s:g} s"
            ) from None
        finally:
            await _end(process)
            authfile.unlink(missing_ok=True)
        if process.returncode != 0:
            log.warning("skopeo failed for %s: %s", reference.url, for_log(stderr))
            raise storage_full_from(stderr) or failure_from(
                stderr, host=reference.host, has_credentials=_are_given(credentials)
            )

    def _command(
        self, reference: RegistryReference, private: Path, authfile: Path
    ) -> Sequence[str]:
        policy, registries = private / "policy.json", private / "registries.conf"
        # Signatures are the deployment's business (a proxy, an allow-list), not decided here.
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        registries.write_text("unqualified-search-registries = []\n")
        lookaside = private / "registries.d"
        lookaside.mkdir()
        return [
            *(SETPRIV.path(), "--pdeathsig", "KILL", "--"),  # a killed worker leaves no pull behind
            self._skopeo.path(),
            *("--policy", str(policy), "--registries-conf", str(registries)),
            *("--registries.d", str(lookaside), "--tmpdir", str(private)),
            *("--override-os", "linux", "--override-arch", "amd64"),
            *("copy", "--quiet", "--remove-signatures", "--src-authfile", str(authfile)),
            f"--src-tls-verify={'false' if reference.is_loopback else 'true'}",
            reference.url,
            f"dir:{private / 'image'}",
        ]

    async def _watch(self, process: asyncio.subprocess.Process, private: Path) -> str:
        """Wait for the end; return the last of stderr. Raises RegistryFailure past the bound."""
        assert process.stderr is not None
        reading = asyncio.create_task(_last_of(process.stderr))
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=SIZE_CHECK_INTERVAL_S)
                if _bytes_below(private) > self._image_bytes_max:
                    raise RegistryFailure(f"the image is larger than {self._image_bytes_max} bytes")
            await process.wait()
            return reading.result()
        finally:
            reading.cancel()


async def _started(*command: str, **options: Any) -> asyncio.subprocess.Process:
    """Start a process group. A cancellation ends all of it: asyncio alone would end its first."""
    starting = asyncio.create_task(asyncio.create_subprocess_exec(*command, **options))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _end(await starting)
        raise


async def _last_of(stream: asyncio.StreamReader) -> str:
    """Read to the end, keep a bounded tail."""
    kept: deque[bytes] = deque(maxlen=STDERR_CHUNKS_KEPT)
    while chunk := await stream.read(STDERR_CHUNK_BYTES):
        kept.append(chunk)
    return b"".join(kept).decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the process group and reap the process."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _bytes_below(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):  # skopeo renames a blob when it is whole
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - names, not paths
    return total


def _are_given(credentials: Credentials | None) -> bool:
    return credentials is not None and bool(credentials.username or credentials.password)


def _write_authfile(path: Path, host: str, credentials: Credentials | None) -> None:
    """Always written, so that skopeo never looks for a login of this machine's user."""
    auths: dict[str, dict[str, str]] = {}
    if credentials is not None and _are_given(credentials):
        if ":" in credentials.username:
            raise RegistryFailure("registry.credentials.username: must not contain ':'")
        pair = f"{credentials.username}:{credentials.password}".encode("utf-8", "replace")
        auths[host] = {"auth": base64.b64encode(pair).decode()}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"auths": auths}, file)
