"""The files that requests name: which of them a node may get, and the objects that nodes get for them.

Nothing is fetched here. A local path is taken only under a configured folder, and a URL that leads into the own network
only where that is allowed, so that a request cannot make a node read what its sender may not.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flowpod.flow.paths import kind_of

# Parsers of URLs differ on these, and so on the host that they read.
_AMBIGUOUS = re.compile(r"[\s\\\x00-\x20\x7f]|//[^/?#]*%")


@dataclass(frozen=True, slots=True)
class Files:
    """What a service allows. `make` builds a node's object from a file's fields."""

    make: Callable[..., Any]
    mounts: tuple[Path, ...] = ()
    private_urls: bool = False

    async def check(self, fields: Mapping[str, str]) -> None:
        """Raise ValueError for a file that a request may not name; `fields` are those of `File`."""
        source = fields["source_uri"]
        scheme = source.partition("://")[0].lower() if "://" in source else ""
        if scheme in ("", "file"):
            name = unquote(urlsplit(source).path) if scheme else source
            # Looking at a path takes its time where the folder is mounted over a network.
            await asyncio.to_thread(self._check_path, name, urlsplit(source).netloc)
        elif scheme in ("http", "https"):
            await self._check_url(source)
        elif scheme != "oss":
            raise ValueError(f"source_uri: {scheme}:// is not supported; use https://, oss:// or a path")
        if download_url := fields.get("download_url"):
            if not download_url.lower().startswith(("http://", "https://")):
                raise ValueError("download_url must be an http:// or https:// URL")
            await self._check_url(download_url)

    def _check_path(self, name: str, host: str) -> None:
        if not self.mounts:
            raise ValueError("local paths are not taken: FLOWPOD_FILE_MOUNTS names no folder")
        path = Path(name)
        if host or not path.is_absolute() or "\0" in name:
            raise ValueError("a local path must be absolute")
        try:
            real = path.resolve()  # links are followed before the place is judged
        except (OSError, RuntimeError):  # they lead in a circle
            raise ValueError("there is no such file") from None
        if not any(real.is_relative_to(mount.resolve()) for mount in self.mounts):
            raise ValueError("the path is in none of the folders of FLOWPOD_FILE_MOUNTS")
        if kind_of(real) != "file":
            raise ValueError("there is no such file")

    async def _check_url(self, url: str) -> None:
        host = None if _AMBIGUOUS.search(url) else urlsplit(url).hostname
        if not host:
            raise ValueError(f"{url!r} is not a valid URL")
        if self.private_urls:
            return
        for address in await _addresses(host):
            if not address.is_global or address.is_multicast:
                reason = "a loopback, link-local or private address is taken only with FLOWPOD_ALLOW_PRIVATE_URLS=on"
                raise ValueError(f"{host} is {address}; {reason}")


async def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return where a host's name leads; a name that nobody here knows leads nowhere."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    except UnicodeError:
        raise ValueError(f"{host!r} is not a valid host") from None
    return [_unmapped(ipaddress.ip_address(str(address[0]).partition("%")[0])) for *_, address in found]


def _unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address.sixtofour or address
    return address
