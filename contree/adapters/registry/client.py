"""The distribution API of one registry, as far as a pull needs it, on aiohttp.

    connect   find out whether it speaks HTTPS, and how it wants to be authenticated
    fetch     GET a manifest or blob, with a token when it asks for one, following redirects

Everything a registry says is hostile: where it sends us is checked (addresses), what it sends is
bounded by whoever reads it. Credentials go to the registry itself and to the realm that it names
for tokens; the distribution specification wants it so.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from contree.adapters.registry.addresses import AddressPolicy
from contree.adapters.registry.challenges import Challenge, challenges
from contree.adapters.registry.failures import failure_of, refusal_of
from contree.adapters.registry.reference import DOCKER_HUB, RegistryReference
from contree.adapters.registry.resolver import PolicyResolver
from contree.app.images.image_source import Credentials
from contree.domain.errors import RegistryFailure

CONNECT_TIMEOUT_S = 30.0
SILENCE_S = 60.0
"""How long a registry may send nothing at all."""
REDIRECTS_MAX = 5
TOKEN_BYTES_MAX = 1024**2
HUB_HOST = "registry-1.docker.io"
"""Where docker.io is served from."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
FAILED = (aiohttp.ClientError, OSError, TimeoutError, ValueError)
"""What aiohttp raises for a connection that fails, or an answer or address that is not valid."""


class _Token(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None


class RegistryClient:
    """One registry, for one pull of the repository that `reference` names."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        reference: RegistryReference,
        *,
        credentials: Credentials | None,
        policy: AddressPolicy,
    ) -> None:
        self._session = session
        self._reference = reference
        self._credentials = credentials
        self._policy = policy
        self._base = URL()
        self._unverified: URL | None = None
        self._challenge: Challenge | None = None
        self._authorization: str | None = None
        self._authorizing = asyncio.Lock()

    @property
    def host(self) -> str:
        """The registry, as the client named it."""
        return self._reference.host

    @property
    def has_credentials(self) -> bool:
        return self._credentials is not None

    async def connect(self) -> None:
        """Find the registry. Raises RegistryFailure.

        One on loopback may speak plain HTTP, or HTTPS with whatever certificate.
        """
        host = HUB_HOST if self.host == DOCKER_HUB else self.host
        if self._reference.is_loopback:
            try:
                return await self._ping(URL(f"http://{host}"))
            except RegistryFailure as plain:
                self._unverified = URL(f"https://{host}")
                try:
                    return await self._ping(self._unverified)
                except RegistryFailure:
                    raise plain from None
        return await self._ping(URL(f"https://{host}"))

    async def _ping(self, base: URL) -> None:
        async with self._get(base / "v2/") as answer:
            # Registries answer 200 or 401 here; one that lacks the route may still serve images.
            if answer.status == HTTPStatus.BAD_REQUEST or answer.status in REDIRECTS:
                raise refusal_of(answer.status, self.host, has_credentials=self.has_credentials)
            self._note_challenge(answer)
        self._base = URL(f"{base}/v2/{self._reference.repository}/")

    @asynccontextmanager
    async def fetch(
        self, path: str, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET `path` below the repository; the answer may have any status but 401 and a redirect.

        Raises RegistryFailure.
        """
        url = self._base.join(URL(path))
        async with AsyncExitStack() as stack:
            answer = await stack.enter_async_context(self._authorized(url, headers or {}))
            for _ in range(REDIRECTS_MAX):
                if answer.status not in REDIRECTS:
                    break
                target = self._redirected(answer)
                await stack.aclose()
                answer = await stack.enter_async_context(
                    self._authorized(target, headers or {})
                    if target.origin() == url.origin()
                    else self._get(target, headers)
                )
            else:
                raise RegistryFailure(f"{self.host}: the registry redirects without an end")
            yield answer

    @asynccontextmanager
    async def _authorized(
        self, url: URL, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        used = await self._authorize(None)
        async with AsyncExitStack() as stack:
            answer = await stack.enter_async_context(self._get(url, {**headers, **used}))
            if answer.status == HTTPStatus.UNAUTHORIZED:
                # The token ran out, or this repository wants one that the ping did not tell of.
                self._note_challenge(answer)
                await stack.aclose()
                used = await self._authorize(used)
                answer = await stack.enter_async_context(self._get(url, {**headers, **used}))
            if answer.status == HTTPStatus.UNAUTHORIZED:
                raise refusal_of(answer.status, self.host, has_credentials=self.has_credentials)
            yield answer

    @asynccontextmanager
    async def _get(
        self, url: URL, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        self._policy.check(url.host or "")
        try:
            async with self._session.get(
                url, headers=headers, ssl=url.origin() != self._unverified, allow_redirects=False
            ) as answer:
                yield answer
        except FAILED as error:
            raise failure_of(error, self.host) from error

    def _redirected(self, answer: aiohttp.ClientResponse) -> URL:
        try:
            target = answer.url.join(URL(answer.headers["Location"]))
        except (KeyError, ValueError) as error:
            raise RegistryFailure(f"{self.host}: the registry redirects to no address") from error
        return self._followed(target)

    def _followed(self, target: URL) -> URL:
        """Refuse an address that the registry names, when it is weaker than the registry's."""
        allowed = (
            {"https", self._base.scheme or "http"} if self._reference.is_loopback else {"https"}
        )
        if target.scheme not in allowed or not target.host:
            raise RegistryFailure(f"{self.host}: the registry sends us to an address without HTTPS")
        return target

    # -- authentication -------------------------------------------------------------------------

    def _note_challenge(self, answer: aiohttp.ClientResponse) -> None:
        found = {
            one.scheme: one for one in challenges(answer.headers.getall("WWW-Authenticate", ()))
        }
        self._challenge = found.get("bearer") or found.get("basic") or self._challenge

    async def _authorize(self, refused: Mapping[str, str] | None) -> dict[str, str]:
        """Return the header to send; `refused` is one that was sent in vain."""
        async with self._authorizing:
            if self._authorization is None or (
                refused is not None and refused.get("Authorization") == self._authorization
            ):
                self._authorization = await self._new_authorization()
        return {} if self._authorization is None else {"Authorization": self._authorization}

    async def _new_authorization(self) -> str | None:
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return self._basic()
        return f"Bearer {await self._token(challenge)}"

    def _basic(self) -> str | None:
        if self._credentials is None:
            return None
        pair = f"{self._credentials.username}:{self._credentials.password}"
        return "Basic " + base64.b64encode(pair.encode("utf-8", "replace")).decode()

    async def _token(self, challenge: Challenge) -> str:
        try:
            realm = URL(challenge.parameters["realm"])
        except (KeyError, ValueError) as error:
            raise RegistryFailure(f"{self.host}: the registry names no realm for tokens") from error
        query: dict[str, Any] = {"scope": f"repository:{self._reference.repository}:pull"}
        if service := challenge.parameters.get("service"):
            query["service"] = service
        basic = self._basic()
        headers = {} if basic is None else {"Authorization": basic}
        async with self._get(self._followed(realm).update_query(query), headers) as answer:
            if answer.status != HTTPStatus.OK:
                raise refusal_of(answer.status, self.host, has_credentials=self.has_credentials)
            content = await bounded(answer, TOKEN_BYTES_MAX, self.host)
        try:
            given = msgspec.json.decode(content, type=_Token)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RegistryFailure(f"{self.host}: the registry's token is not valid") from error
        token = given.token or given.access_token
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise RegistryFailure(f"{self.host}: the registry's token is not valid")
        return token


async def bounded(answer: aiohttp.ClientResponse, bytes_max: int, host: str) -> bytes:
    """Return the body. Raises RegistryFailure when it is larger than `bytes_max`."""
    content = bytearray()
    async for piece in answer.content.iter_any():
        content += piece
        if len(content) > bytes_max:
            raise RegistryFailure(f"{host}: the registry's answer is larger than {bytes_max} bytes")
    return bytes(content)


def session(policy: AddressPolicy) -> aiohttp.ClientSession:
    """A session for one pull: no cookies, nothing inflated, proxies as the environment has them."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=PolicyResolver(policy)),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "contreed"},
        trust_env=True,
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_S
        ),
    )
