"""A registry on loopback that answers as it is told to, for what no real one does.

    async with odd_registry() as registry:
        url = registry.image("a/b", [tar])           # a well-formed image; keywords make it odd
        registry.answers["/v2/a/b/blobs/..."] = ...  # a handler in place of the usual answer

It keeps the requests that it was sent, to tell what a client gave away and to whom.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from contree.adapters.registry.manifest import digest_of

OCI = "application/vnd.oci.image."
MANIFEST = OCI + "manifest.v1+json"
INDEX = OCI + "index.v1+json"
CONFIG = OCI + "config.v1+json"
LAYER_GZIP = OCI + "layer.v1.tar+gzip"
AMD64 = {"os": "linux", "architecture": "amd64"}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def gzipped(content: bytes) -> bytes:
    """Equal content gives equal bytes."""
    return gzip.compress(content, mtime=0)


@dataclass(kw_only=True)
class OddRegistry:
    """`contents` (bytes, media type) and `answers` are by whole path; `before` is asked first, and
    lets a request pass by status 100.
    """

    host: str
    contents: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    before: Answer | None = None

    def url(self, repository: str, tag: str = "latest") -> str:
        return f"docker://{self.host}/{repository}:{tag}"

    def blob(self, repository: str, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Keep a blob; return its descriptor."""
        digest = digest_of(content)
        self.contents[f"/v2/{repository}/blobs/{digest}"] = (content, "application/octet-stream")
        return {"mediaType": media_type, "digest": digest, "size": len(content), **more}

    def document(
        self, repository: str, value: Any, media_type: str, *, tag: str = ""
    ) -> dict[str, Any]:
        """Keep a manifest or index, by its digest and `tag`; return its descriptor."""
        content = json.dumps(value).encode()
        digest = digest_of(content)
        for name in (digest, tag):
            self.contents[f"/v2/{repository}/manifests/{name}"] = (content, media_type)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def image(
        self,
        repository: str,
        tars: Sequence[bytes],
        *,
        tag: str = "latest",
        layer_type: str = LAYER_GZIP,
        pack: Callable[[bytes], bytes] = gzipped,
        config: Mapping[str, Any] | None = None,
        rootfs: Mapping[str, Any] | None = None,
        config_type: str = CONFIG,
        manifest: Mapping[str, Any] | None = None,
        manifest_type: str = MANIFEST,
        **platform: str,
    ) -> dict[str, Any]:
        """Keep an image of `tars`; return the descriptor of its manifest."""
        layers = [self.blob(repository, pack(tar), layer_type) for tar in tars]
        document = {
            **AMD64,
            **platform,
            "config": config or {},
            "rootfs": rootfs
            if rootfs is not None
            else {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        }
        described = self.blob(repository, json.dumps(document).encode(), config_type)
        value = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": described,
            "layers": layers,
            **(manifest or {}),
        }
        return self.document(repository, value, manifest_type, tag=tag)

    def index(
        self, repository: str, entries: Sequence[Mapping[str, Any]], *, tag: str = "latest"
    ) -> dict[str, Any]:
        value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}
        return self.document(repository, value, INDEX, tag=tag)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.headers)))
        if request.path in self.answers:
            return await self.answers[request.path](request)
        if self.before is not None:
            answer = await self.before(request)
            if answer.status != 100:  # "go on"
                return answer
        if request.path == "/v2/":
            return web.json_response({})
        if request.path not in self.contents:
            return web.json_response({"errors": [{"code": "UNKNOWN"}]}, status=404)
        content, media_type = self.contents[request.path]
        return web.Response(body=content, headers={"Content-Type": media_type})


@asynccontextmanager
async def odd_registry() -> AsyncIterator[OddRegistry]:
    registry = OddRegistry(host="")
    server = web.Server(registry._answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    registry.host = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield registry
    finally:
        await runner.cleanup()
