"""The one way to fetch from a URL that a request names: through the guard, on every redirect."""

import asyncio
from urllib.parse import urljoin

import httpx2

from flowpod.content.url_guard import Address, AddressRule, Resolve, check_url, checked_addresses, is_public, look_up

MAX_REDIRECTS = 5
_MAX_BYTES = 50 * 1024 * 1024
_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 10.0


async def fetch(
    url: str,
    *,
    private_urls: bool = False,
    max_bytes: int = _MAX_BYTES,
    timeout_s: float = _TIMEOUT_S,
    is_allowed: AddressRule = is_public,
    resolve: Resolve = look_up,
) -> bytes:
    """Return the content at `url`, through at most MAX_REDIRECTS redirects and never from https to http.

    Each URL on the way is checked. Connections go to an address that was checked, because a second look-up of the name
    could answer with another one. Raises ValueError that gives the reason when there is no content to be had.
    """
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(MAX_REDIRECTS + 1):
                host = check_url(url, private_urls=private_urls, is_allowed=is_allowed)
                addresses = [] if private_urls else await checked_addresses(host, is_allowed, resolve)
                answer = await _get(url, host, addresses, max_bytes)
                if isinstance(answer, bytes):
                    return answer
                if url.lower().startswith("https:") and not answer.lower().startswith("https:"):
                    raise ValueError("it redirects from https to http")
                url = answer
        raise ValueError(f"it redirects more than {MAX_REDIRECTS} times")
    except TimeoutError:
        raise ValueError(f"it takes longer than {timeout_s:g} seconds") from None
    except (OSError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ValueError(str(error) or type(error).__name__) from error


async def _get(url: str, host: str, addresses: list[Address], max_bytes: int) -> bytes | str:
    """Return the content at `url`, or the URL that it redirects to.

    Each fetch has its own client: a shared one would reuse connections and cookies of another host at this address.
    A proxy of the environment (`HTTPS_PROXY`) is used, and gets the checked address, because it could resolve a name to
    another one. With `private_urls` it gets the name.
    """
    timeout = httpx2.Timeout(_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    async with httpx2.AsyncClient(timeout=timeout) as client:
        response = await _connect(client, httpx2.URL(url).copy_with(host=host), addresses)
        try:
            if response.has_redirect_location:
                return urljoin(url, response.headers["location"])
            if response.status_code != 200:
                raise ValueError(f"the server answered {response.status_code}")
            return await _content(response, max_bytes)
        finally:
            await response.aclose()


async def _connect(client: httpx2.AsyncClient, url: httpx2.URL, addresses: list[Address]) -> httpx2.Response:
    """Send a GET request to the first of `addresses` that accepts the connection; without any, to the URL's host."""
    requests = [
        client.build_request(
            "GET",
            url.copy_with(host=str(address)),
            headers={"Host": url.netloc.decode()},
            extensions={"sni_hostname": url.raw_host.decode()},
        )
        for address in addresses
    ] or [client.build_request("GET", url)]
    for request in requests[:-1]:
        try:
            return await client.send(request, stream=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            continue
    return await client.send(requests[-1], stream=True)


async def _content(response: httpx2.Response, max_bytes: int) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > max_bytes:
            raise ValueError(f"it is larger than {max_bytes} bytes")
    return bytes(content)
