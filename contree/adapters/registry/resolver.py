"""Resolves names for pulls, and gives only addresses that may be dialled."""

from __future__ import annotations

import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from contree.adapters.registry.addresses import AddressPolicy, forbidden


class PolicyResolver(AbstractResolver):
    """The system's resolver behind `policy`. Raises RegistryFailure when nothing is left."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        allowed = [
            one for one in found if self._policy.allows(host, ipaddress.ip_address(one["host"]))
        ]
        if found and not allowed:
            raise forbidden(host)
        return allowed

    async def close(self) -> None:
        await self._system.close()
