"""The published clients below a path prefix, with the distribution's nginx in front.

Over TLS nginx has a certificate of no public authority: clients that are not told to trust it must
refuse it.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import ssl
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from contree_client import models
from contree_client.exceptions import APIConnectionError
from contree_client.http import ContreeClient
from contree_sdk.auth import JWTAuth
from contree_sdk.sdk.exceptions import ContreeTransportError

from tests.acceptance.agent import over_stdio
from tests.acceptance.sdk import signed_in
from tests.acceptance.terminal import Terminal
from tests.support.nginx import Certificate, make_certificate, running_nginx
from tests.support.server import RunningServer

OPEN = models.ClosableStreamRepr(value="", close=False)
PIECE = bytes(range(256)) * 4096  # 1 MiB, all that nginx takes by default
WAIT_S = 300
TRUSTED = {
    "http": "SSL_CERT_FILE",
    "urllib3": "SSL_CERT_FILE",
    "httpx": "SSL_CERT_FILE",
    "requests": "REQUESTS_CA_BUNDLE",
}
"""The variable that names the certificate, where the program passes no context of its own."""
REFUSED = "CERTIFICATE_VERIFY_FAILED"


@pytest.fixture(scope="module")
def url(server: RunningServer) -> Iterator[str]:
    with running_nginx(server.url) as prefixed:
        yield prefixed


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_url(server: RunningServer, certificate: Certificate) -> Iterator[str]:
    with running_nginx(server.url, certificate) as prefixed:
        yield prefixed


@pytest.fixture
def trusts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What clients here take from the environment of the tests themselves."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def http(url: str, token: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"{url}/v1", headers=headers, timeout=120) as client:
        yield client


def test_locations_keep_the_prefix(http: httpx.Client, url: str, busybox: str) -> None:
    found = http.get("/inspect/", params={"tag": "busybox:latest"})
    assert (found.status_code, found.headers["Location"]) == (302, f"{busybox}/")
    followed = http.get("/inspect", params={"tag": "busybox:latest"}, follow_redirects=True)
    assert followed.json()["uuid"] == busybox
    assert str(followed.url) == f"{url}/v1/inspect/{busybox}/"
    spawned = http.post(
        "/instances", json={"image": busybox, "command": "true", "disposable": True}
    )
    where = httpx.URL(f"{url}/v1/instances").join(spawned.headers["Location"])
    assert http.get(where).json()["uuid"] == spawned.json()["uuid"]
    assert http.get("/no/such").json()["status"] == 404


@pytest.mark.parametrize("transport", ["http", "urllib3", "requests", "httpx"])
def test_contree_client(transport: str, url: str, token: str, busybox: str) -> None:
    make = importlib.import_module(f"contree_client.{transport}").ContreeClient
    with make(token, base_url=f"{url}/") as client:
        client.update_image_tag(busybox, f"proxy/{transport}:1")
        assert client.resolve_image(f"tag:proxy/{transport}:1") == busybox
        file = client.ensure_file(io.BytesIO(transport.encode()))
        assert client.upload_file(io.BytesIO(b"")).size == 0
        uuid = client.spawn_instance(
            "cat /in; cat", f"tag:proxy/{transport}:1", shell=True, stdin=OPEN,
            files={"/in": models.FileSpec(uuid=file.uuid)},
        ).uuid  # fmt: skip
        seen: list[Any] = []
        for event in client.follow_operation_events(uuid):
            seen.append(event)
            if event.type == "stdout" and seen and event.data.value == transport:
                # Unbuffered: this answer is asked for while the command waits for it.
                client.operation_subprocess_stdin(uuid, 1, " and more", close=True)
        output = "".join(event.data.value for event in seen if event.type == "stdout")
        assert output == f"{transport} and more"
        assert seen[-1].data.status == "SUCCESS"
        image = seen[-1].data.result_image_uuid
        packed = b"".join(client.inspect_image_archive(image, "/in", compressed=True))
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
            assert tar.getnames() == ["in"]
        assert client.inspect_image_download(image, "/in") == transport.encode()


def test_contree_sdk(url: str, token: str, busybox: str) -> None:
    with signed_in(JWTAuth(token=token, base_url=url)) as contree:
        image = contree.images.use("busybox:latest", strict=True)
        assert str(image.uuid) == busybox
        session = image.session()
        session.run(shell="cat /in >/out", files={"/in": b"in"}, disposable=False).wait()
        assert session.read("/out") == b"in"
        assert {entry.name for entry in session.ls("/")} >= {"in", "out"}


def test_contree_cli(url: str, token: str, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.log_in(url, token)
    assert [row["status"] for row in terminal.rows("auth", "ls")] == ["ok"]
    terminal.type("use", "tag:busybox:latest")
    assert terminal.type("run", "--", "tee", "/fed", stdin="x" * 50_000) == "x" * 50_000
    assert terminal.type("cat", "/fed") == "x" * 50_000
    terminal.type("export", "/fed", "-F", "fed.tar.gz")
    with tarfile.open(tmp_path / "fed.tar.gz", "r:gz") as tar:
        assert tar.getnames() == ["fed"]


def bytes_underway(server: RunningServer) -> int:
    """How much of an unfinished upload the server has: its file has no name until it is whole."""
    content = str(server.data_dir.resolve() / "content")
    size_bytes = 0
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if str(descriptor.readlink()).startswith(content):
                size_bytes += descriptor.stat().st_size
    return size_bytes


def test_a_large_upload_goes_through_as_it_comes_and_back_whole(
    server: RunningServer, http: httpx.Client, url: str, token: str, busybox: str
) -> None:
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for number in range(64):
            piece = number.to_bytes(4, "big") + PIECE
            digest.update(piece)
            yield piece
            if number == 32:  # the server must have most of it before the rest is sent
                deadline = time.monotonic() + WAIT_S
                while bytes_underway(server) < 24 * len(PIECE):
                    assert time.monotonic() < deadline, "the proxy keeps uploads back"
                    time.sleep(0.02)

    uploaded = http.post("/files", content=pieces()).json()
    assert (uploaded["sha256"], uploaded["size"]) == (digest.hexdigest(), 64 * (4 + len(PIECE)))
    with ContreeClient(token, base_url=url) as client:
        uuid = client.spawn_instance(
            "true", busybox, files={"/large": models.FileSpec(uuid=uploaded["uuid"])}
        ).uuid
        image = client.wait_operation(uuid, timeout=WAIT_S).result_image_uuid
        back = hashlib.sha256()
        for chunk in client.inspect_image_download_stream(image, "/large"):
            back.update(chunk)
    assert back.digest() == digest.digest()


async def test_contree_mcp(url: str, token: str, busybox: str, tmp_path: Path) -> None:
    async with over_stdio(url, token, tmp_path) as agent:
        assert (await agent.call("get_image", image="tag:busybox:latest"))["uuid"] == busybox
        assert (await agent.run("cat", stdin="fed"))["stdout"] == "fed"


@pytest.mark.parametrize(("transport", "variable"), TRUSTED.items())
@pytest.mark.usefixtures("trusts_nobody")
def test_contree_client_over_tls(
    transport: str, variable: str, tls_url: str, certificate: Certificate, token: str,
    busybox: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make = importlib.import_module(f"contree_client.{transport}").ContreeClient
    with make(token, base_url=tls_url) as client, pytest.raises(APIConnectionError, match=REFUSED):
        client.resolve_image("tag:busybox:latest")
    context = ssl.create_default_context(cafile=certificate.file)
    with make(token, base_url=tls_url, ssl_context=context) as client:
        assert client.resolve_image("tag:busybox:latest") == busybox
    monkeypatch.setenv(variable, str(certificate.file))
    with make(token, base_url=tls_url) as client:
        uuid = client.spawn_instance("echo", busybox, args=[transport], disposable=True).uuid
        seen = list(client.follow_operation_events(uuid))
        output = "".join(event.data.value for event in seen if event.type == "stdout")
        assert output == f"{transport}\n"


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
async def test_async_contree_client_over_tls(
    transport: str, tls_url: str, certificate: Certificate, token: str, busybox: str
) -> None:
    make = importlib.import_module(f"contree_client.{transport}").ContreeAsyncClient
    context = ssl.create_default_context(cafile=certificate.file)
    async with make(token, base_url=tls_url, ssl_context=context) as client:
        assert await client.resolve_image("tag:busybox:latest") == busybox


@pytest.mark.usefixtures("trusts_nobody")
def test_contree_sdk_over_tls(
    tls_url: str, certificate: Certificate, token: str, busybox: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    auth = JWTAuth(token=token, base_url=tls_url)
    with signed_in(auth) as contree, pytest.raises(ContreeTransportError, match=REFUSED):
        contree.images.use("busybox:latest", strict=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    with signed_in(auth) as contree:
        done = contree.images.use("busybox:latest", strict=True).run(shell="echo sdk").wait()
        assert done.stdout == "sdk\n"


def test_contree_cli_over_tls(
    tls_url: str, certificate: Certificate, token: str, busybox: str, tmp_path: Path
) -> None:
    """It takes the best transport that is installed, thus one of two variables."""
    terminal = Terminal(tmp_path)
    sign_in = ("auth", "--type", "jwt", "--url", tls_url, "--token", token)
    with terminal.start(*sign_in) as process:
        assert process.stderr is not None
        assert any("network error" in line and "retrying" in line for line in process.stderr)
    trust = dict.fromkeys(TRUSTED.values(), str(certificate.file))
    terminal.type(*sign_in, **trust)
    run = ("run", "--disposable", "--use", "tag:busybox:latest", "--", "echo", "cli")
    assert terminal.type(*run, **trust) == "cli\n"


async def test_contree_mcp_over_tls(
    tls_url: str, certificate: Certificate, token: str, busybox: str, tmp_path: Path
) -> None:
    async with over_stdio(tls_url, token, tmp_path) as agent:
        assert REFUSED in await agent.refusal("run", command="true", image=busybox)
    async with over_stdio(tls_url, token, tmp_path, SSL_CERT_FILE=str(certificate.file)) as agent:
        assert (await agent.run("echo mcp"))["stdout"] == "mcp\n"
