"""The guard of every URL that a request names: which may be used. `url_fetch` is the one way to fetch from them.

A request must not make Flowpod, a node or a model server read from Flowpod's own network. `FLOWPOD_ALLOW_PRIVATE_URLS`
(`private_urls` here) switches the rule about addresses off; the other rules stay.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address

_AMBIGUOUS = re.compile(r"[\s\\\x00-\x20\x7f]")  # URL parsers disagree about these, and so about the host
# Reserved, and public by the registry that some versions of Python know: IETF protocol assignments (RFC 6890), relays
# of 6to4 (RFC 7526) and documentation (RFC 9637).
_RESERVED = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")))
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# RFC 8215 lets a network lay out 64:ff9b:1::/48 as it likes; only its first /96 has one meaning in every layout.
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/96"))


def is_public(address: Address) -> bool:
    """Return whether an address is public; an IPv6 one that carries IPv4 ones (as 6to4 does) is as public as these."""
    if isinstance(address, IPv6Address):
        if carried := list(_carried(address)):
            return all(map(is_public, carried))
        if address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _RESERVED)


def _carried(address: IPv6Address) -> Iterator[IPv4Address]:
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    elif address.sixtofour:
        yield address.sixtofour
    elif address.teredo:
        yield from address.teredo  # the tunnel's server and its client
    elif any(address in network for network in _NAT64):
        yield IPv4Address(int(address) & 0xFFFF_FFFF)


AddressRule = Callable[[Address], bool]
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a host name up: returns its addresses as texts, best first. Raises OSError for an unknown name."""


async def look_up(host: str) -> Sequence[str]:
    """Ask the system's resolver for the addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(socket_address[0]) for *_, socket_address in found]


def check_url(url: str, *, private_urls: bool = False, is_allowed: AddressRule = is_public) -> str:
    """Return the host of an http or https URL, a name in ASCII; no name is looked up.

    Raises ValueError for any other URL, for one that parsers read differently, and for a host that is `localhost` or
    an address that `is_allowed` refuses.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError:
        parts, host = urlsplit(""), ""
    if _AMBIGUOUS.search(url) or "%" in host or parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{url[:80]!r} is not a valid http:// or https:// URL")
    if not private_urls and not all(map(is_allowed, _addresses_written_as(host))):
        raise ValueError(f"{host} is not a public address; FLOWPOD_ALLOW_PRIVATE_URLS=on allows such addresses")
    return host


def _addresses_written_as(host: str) -> list[Address]:
    """Return the address that a host is written as, also as 127.1 or 0x7f000001; nothing for a name."""
    bare = host.rstrip(".")
    if bare == "localhost" or bare.endswith(".localhost"):
        return [IPv4Address("127.0.0.1")]
    try:
        found = socket.getaddrinfo(bare, None, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return []
    return _addresses_in([str(socket_address[0]) for *_, socket_address in found])


def _addresses_in(texts: Sequence[str]) -> list[Address]:
    return [ip_address(text) for text in dict.fromkeys(text.partition("%")[0] for text in texts)]


async def check_resolved_url(url: str, *, private_urls: bool = False, resolve: Resolve = look_up) -> None:
    """Check a URL as `check_url` does, and the addresses of its host; an unknown name passes: it leads nowhere."""
    host = check_url(url, private_urls=private_urls)
    if not private_urls:
        try:
            await checked_addresses(host, is_public, resolve)
        except OSError:
            return


async def checked_addresses(host: str, is_allowed: AddressRule, resolve: Resolve) -> list[Address]:
    """Return the addresses of a host, best first. Raises OSError for an unknown name, ValueError for a refused one."""
    addresses = _addresses_in(await resolve(host))
    if not all(map(is_allowed, addresses)):
        raise ValueError(
            f"{host} resolves to an address that is not public; FLOWPOD_ALLOW_PRIVATE_URLS=on allows such addresses"
        )
    return addresses
