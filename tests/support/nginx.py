"""nginx from the distribution as a reverse proxy with a path prefix, on a free loopback port.

A child of the test with a configuration of its own: nothing is installed as a service. Its
`location` block is the one that docs/clients/README.md shows. With TLS it has a certificate that
nobody but the test's clients trusts, made for the test.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from infra.images.registry import PACKAGES_DIR, free_port

NGINX = PACKAGES_DIR / "nginx" / "usr" / "sbin" / "nginx"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "clients" / "README.md"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
AROUND = """\
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        {listen}
{location}
    }}
}}
"""
TLS = """\
listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate.file};
        ssl_certificate_key {certificate.key_file};"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """PEM files. The certificate signs itself, so it is also the authority for clients to trust."""

    file: Path
    key_file: Path


def make_certificate(directory: Path) -> Certificate:
    """Make one for 127.0.0.1, valid a day before and after now."""
    made = Certificate(file=directory / "certificate.pem", key_file=directory / "key.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "contree test")])
    now, day = datetime.now(UTC), timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    made.file.write_bytes(certificate.public_bytes(Encoding.PEM))
    made.key_file.touch(mode=0o600)
    made.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def documented_location() -> str:
    """Return the `location` block that the documentation tells an operator to use."""
    text = DOCUMENT.read_text()
    return text.partition("```nginx\n")[2].partition("```")[0]


@contextmanager
def running_nginx(upstream: str, certificate: Certificate | None = None) -> Iterator[str]:
    """Put nginx before the server at `upstream` (a URL); yield the URL below which it is.

    With a `certificate` it speaks TLS alone.
    """
    directory = Path(tempfile.mkdtemp(prefix="contree-nginx-"))
    port = free_port()
    location = documented_location().replace("http://127.0.0.1:8080", upstream)
    assert upstream in location
    config = directory / "nginx.conf"
    scheme, listen = "http", f"listen 127.0.0.1:{port};"
    if certificate is not None:
        scheme, listen = "https", TLS.format(port=port, certificate=certificate)
    config.write_text(AROUND.format(directory=directory, listen=listen, location=location))
    process = subprocess.Popen(
        [NGINX, "-c", config, "-e", directory / "error.log"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(port):
            errors = directory / "error.log"
            assert process.poll() is None, errors.read_text() if errors.exists() else "no nginx"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"{scheme}://127.0.0.1:{port}/contree"
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(directory, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
