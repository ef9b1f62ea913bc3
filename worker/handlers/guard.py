"""Keeps webhooks out of private networks: only addresses that were checked are connected to.

Checking a name before the request would prove nothing, since it may resolve differently a moment later. So the check
is the connector's resolver: what it returns is what is connected to. Address literals never reach a resolver and are
checked by `check_host`.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

_log = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
# As browsers decide it: a host whose last label is a number is meant as an IPv4 address, however it is written.
_ENDS_IN_A_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?$")


class AddressRefused(Exception):
    """The host is, or resolves to, nothing that may be connected to. Says no address: resolving is not for spying."""


@dataclass(frozen=True, slots=True)
class AllowList:
    """What may be reached though it is not public: `host`, `host:port`, an address, or a network in CIDR form."""

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AllowList:
        """Raises ValueError, naming the entry."""
        hosts: set[tuple[str, int | None]] = set()
        networks: list[IPv4Network | IPv6Network] = []
        for entry in filter(None, (raw.strip() for raw in entries)):
            try:
                networks.append(ip_network(entry.strip("[]")))
            except ValueError:
                if "/" in entry:
                    raise ValueError(f"'{entry}' is not a network such as 10.0.0.0/8") from None
                hosts.add(_host_and_port(entry))
        return cls(frozenset(hosts), tuple(networks))

    def names(self, host: str, port: int) -> bool:
        """Whether the host is allowed by its name, wherever it may be."""
        plain = host.lower().rstrip(".")
        return (plain, None) in self.hosts or (plain, port) in self.hosts

    def covers(self, address: Address) -> bool:
        return any(address in network for network in self.networks if network.version == address.version)


class GuardedResolver(AbstractResolver):
    """Resolves names, and returns those of their addresses that may be connected to."""

    def __init__(self, allow: AllowList, inner: AbstractResolver | None = None) -> None:
        self._allow = allow
        self._inner = inner or ThreadedResolver()

    def check_host(self, host: str, port: int) -> None:
        """Raises AddressRefused for an address literal that may not be connected to."""
        try:
            address = ip_address(host)
        except ValueError:
            if _ENDS_IN_A_NUMBER.search(host):
                raise AddressRefused("is an unusual spelling of an address") from None
            return
        if not self._may_connect(host, port, address):
            raise AddressRefused("is not a public address")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [item for item in found if self._may_connect(host, port, ip_address(item["host"]))]
        if found and not allowed:
            _log.warning("webhook host %s resolves to %s: refused", host, [item["host"] for item in found])
            raise AddressRefused("does not resolve to a public address")
        return allowed

    async def close(self) -> None:
        await self._inner.close()

    def _may_connect(self, host: str, port: int, address: Address) -> bool:
        return self._allow.names(host, port) or self._allow.covers(address) or is_public(address)


def is_public(address: Address) -> bool:
    """Whether the address is one of the public internet, also when it carries another one inside."""
    if isinstance(address, IPv6Address):
        inner = _inner_ipv4(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local or address in _NAT64_LOCAL or address.teredo is not None:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _inner_ipv4(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _host_and_port(entry: str) -> tuple[str, int | None]:
    host, colon, port = entry.rpartition(":")
    if not colon:
        return entry.lower().rstrip("."), None
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"'{entry}' is not a host, host:port, address or network")
    return host.strip("[]").lower().rstrip("."), int(port)
