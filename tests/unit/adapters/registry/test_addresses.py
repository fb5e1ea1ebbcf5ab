"""Which addresses a pull may dial, against IANA's special-purpose registries."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from contree.adapters.registry.addresses import AddressPolicy, is_public
from contree.adapters.registry.resolver import PolicyResolver
from contree.domain.errors import InvalidFieldError, RegistryFailure

REFUSED = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("2002:7f00:1::", "2002:a00:1::1"),
]
PUBLIC = ["1.1.1.1", "151.101.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_on_the_public_internet_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(RegistryFailure, match="import_allow"):
        AddressPolicy().check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_dialled(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_an_operator_allows_names_addresses_and_networks() -> None:
    policy = AddressPolicy("127.0.0.0/8, registry.corp , [::1],192.0.2.7")
    for name, address in [
        ("x", "127.0.0.2"),
        ("registry.corp", "10.1.2.3"),
        ("REGISTRY.corp", "10.1.2.3"),
        ("x", "::1"),
        ("x", "192.0.2.7"),
    ]:
        assert policy.allows(name, ipaddress.ip_address(address))
    assert not policy.allows("other.corp", ipaddress.ip_address("10.1.2.3"))
    assert not policy.allows("x", ipaddress.ip_address("192.0.2.8"))


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "a b", "http://x", "10.0.0.1/8", "x:5000"])
def test_an_entry_that_allows_nothing_is_refused(entry: str) -> None:
    with pytest.raises(InvalidFieldError, match="import_allow"):
        AddressPolicy(entry)


async def test_a_name_gives_only_addresses_that_may_be_dialled() -> None:
    refusing = PolicyResolver(AddressPolicy())
    with pytest.raises(RegistryFailure, match="localhost: this is no public address"):
        await refusing.resolve("localhost", 80, socket.AF_INET)
    allowing = PolicyResolver(AddressPolicy("localhost"))
    found = await allowing.resolve("localhost", 80, socket.AF_INET)
    assert {one["host"] for one in found} == {"127.0.0.1"}
    await refusing.close()
    await allowing.close()
