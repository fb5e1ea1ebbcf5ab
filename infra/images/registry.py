"""A real registry (Debian's docker-registry, CNCF distribution 2.8) on a free loopback port.

For the demo, the benches and the tests: it runs as a child of the caller, on a throw-away
directory, and is stopped when the context ends, however it ends. It is not for production: plain
HTTP, no limits, and a password that is written below.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
PACKAGES_DIR = REPOSITORY_ROOT / ".cache" / "packages"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
PORTS_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
PORTS_FIRST = 5000
USERNAME = "contree"
PASSWORD = "open sesame"
# bcrypt of PASSWORD with the least cost: the registry accepts no other scheme, and no tool that
# writes this file is small enough to depend on.
HTPASSWD_LINE = f"{USERNAME}:$2y$04$tQR7rUw/22bzs5vk5KkDeOssPXUHrN6UOM0QOyP6vAF7AL.otXvAe\n"


class RegistryNotInstalledError(Exception):
    """The registry's binary is not where `make setup-dev` unpacks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRegistry:
    """A registry that answers at `host` (`127.0.0.1:PORT`) and keeps its blobs in `storage`."""

    host: str
    storage: Path
    needs_password: bool

    def url(self, repository: str, tag: str = "latest") -> str:
        """The URL that an import takes."""
        return f"docker://{self.host}/{repository}:{tag}"

    def push(self, layout: Path, layout_tag: str, repository: str, tag: str = "latest") -> str:
        """Push an image of an OCI layout, digests unchanged; return its URL.

        Raises subprocess.CalledProcessError with skopeo's words in `stderr`.
        """
        url = self.url(repository, tag)
        with tempfile.TemporaryDirectory(prefix="contree-push-") as private:
            command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests"]
            command += ["--all", "--dest-tls-verify=false"]
            if self.needs_password:
                authfile = Path(private) / "auth.json"
                token = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
                authfile.write_text(json.dumps({"auths": {self.host: {"auth": token}}}))
                command += ["--dest-authfile", str(authfile)]
            subprocess.run(
                [*command, f"oci:{layout}:{layout_tag}", url],
                check=True,
                capture_output=True,
                text=True,
                cwd=private,
            )
        return url

    def blob_path(self, digest: str) -> Path:
        """Where the registry keeps the bytes of a blob; tests damage them there."""
        hexadecimal = digest.removeprefix("sha256:")
        blobs = self.storage / "docker" / "registry" / "v2" / "blobs" / "sha256"
        return blobs / hexadecimal[:2] / hexadecimal / "data"


@contextmanager
def running_registry(
    *, password: bool = False, packages_dir: Path = PACKAGES_DIR
) -> Iterator[RunningRegistry]:
    """Start a registry, yield it when it answers, stop it and remove its directory.

    Raises RegistryNotInstalledError, or RuntimeError with its log when it does not come up.
    """
    binary = packages_dir / "docker-registry" / "usr" / "bin" / "docker-registry"
    if not binary.exists():
        raise RegistryNotInstalledError(f"{binary} is missing: run `make setup-dev`")
    directory = Path(tempfile.mkdtemp(prefix="contree-registry-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        port = free_port()
        config = _write_config(directory, port=port, password=password)
        log = directory / "registry.log"
        with log.open("wb") as output:
            # A session of its own: Ctrl-C in a terminal is for its parent, which then stops it.
            process = subprocess.Popen(
                [binary, "serve", config],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _wait_until_it_answers(process, port, log)
        yield RunningRegistry(
            host=f"127.0.0.1:{port}", storage=directory / "storage", needs_password=password
        )
    finally:
        if process is not None:
            _stop(process)
        shutil.rmtree(directory, ignore_errors=True)


def _write_config(directory: Path, *, port: int, password: bool) -> Path:
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if password:
        (directory / "htpasswd").write_text(HTPASSWD_LINE)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    path = directory / "config.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def free_port() -> int:
    """Return a port of loopback for a program that cannot be told to choose one itself.

    It is below those that the kernel gives to outgoing connections: one of them might take it
    before the program does.
    """
    lowest_outgoing = int(PORTS_OUTGOING.read_text().split()[0])
    end = max(lowest_outgoing, 2 * PORTS_FIRST)  # where hardly any is left, better than none
    while True:
        port = PORTS_FIRST + secrets.randbelow(end - PORTS_FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # taken
                continue
            return port


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().status in {200, 401}:
                return
        except OSError:
            time.sleep(0.02)
        finally:
            connection.close()
    raise RuntimeError(f"the registry did not come up: {log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
