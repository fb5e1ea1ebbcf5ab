"""nginx from the distribution as a reverse proxy with a path prefix, on a free loopback port.

A child of the test with a configuration of its own: nothing is installed as a service. Its
`location` block is the one that docs/clients/README.md shows.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        listen 127.0.0.1:{port};
{location}
    }}
}}
"""


def documented_location() -> str:
    """Return the `location` block that the documentation tells an operator to use."""
    text = DOCUMENT.read_text()
    return text.partition("```nginx\n")[2].partition("```")[0]


@contextmanager
def running_nginx(upstream: str) -> Iterator[str]:
    """Put nginx before the server at `upstream` (a URL); yield the URL below which it is."""
    directory = Path(tempfile.mkdtemp(prefix="contree-nginx-"))
    port = free_port()
    location = documented_location().replace("http://127.0.0.1:8080", upstream)
    assert upstream in location
    config = directory / "nginx.conf"
    config.write_text(AROUND.format(directory=directory, port=port, location=location))
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
        yield f"http://127.0.0.1:{port}/contree"
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(directory, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
