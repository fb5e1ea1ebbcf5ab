"""Which addresses a pull may dial: public ones, and what the operator allows.

A client names the registry, and the registry names further hosts (token realms, redirects of
blobs). So each address is checked after names are resolved, and the checked address is the one that
is dialled: a name that resolves differently the next time changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from contree.domain.errors import InvalidFieldError, RegistryFailure

SETTING = "import_allow"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 addresses that stand for the IPv4 address in their last 32 bits, RFC 6052."""


class AddressPolicy:
    """What may be dialled. `allow` has host names, addresses and networks, separated by commas.

    A name allows whatever it resolves to; so do the proxies that the environment names. Raises
    InvalidFieldError naming `import_allow`.
    """

    def __init__(self, allow: str = "") -> None:
        proxies = (urlsplit(proxy).hostname for proxy in getproxies().values())
        self._names: set[str] = {name for name in proxies if name}
        self._networks: list[_Network] = []
        for entry in filter(None, (part.strip().lower() for part in allow.split(","))):
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]")))
            except ValueError:
                if not entry.replace("-", "").replace(".", "").isalnum():
                    raise InvalidFieldError(
                        SETTING, f"'{entry}' is no host name, address or network (10.0.0.0/8)"
                    ) from None
                self._names.add(entry)

    def allows(self, name: str, address: Address) -> bool:
        """Tell whether `address`, which `name` resolved to, may be dialled."""
        if name.lower() in self._names or any(address in network for network in self._networks):
            return True
        return is_public(address)

    def check(self, host: str) -> None:
        """Raise RegistryFailure when `host` is an address that may not be dialled.

        Names pass: what they resolve to is checked when they are resolved.
        """
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return
        if not self.allows(host, address):
            raise forbidden(host)


def forbidden(host: str) -> RegistryFailure:
    return RegistryFailure(
        f"{host}: this is no public address; an operator can allow imports from it"
        f" by the setting {SETTING}"
    )


def is_public(address: Address) -> bool:
    """Tell whether `address` is on the public internet and not this very machine's."""
    embedded = _embedded(address)
    if embedded is not None:
        return is_public(embedded)
    return address.is_global and not address.is_multicast and not _is_ours(address)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one only carries; a gateway would send us there."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def _is_ours(address: Address) -> bool:
    """Only an address of this machine can be bound; nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004 - IPv4
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
        return True
