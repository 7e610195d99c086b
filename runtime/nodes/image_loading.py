"""Images for Python code, which wants their bytes: those behind a URL are fetched."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

import httpx2

from runtime.errors import NodeError
from runtime.nodes.images import Picture, check_url, has_images, image_object, is_private, mapped

_TIMEOUT_S = 30
_MAX_REDIRECTS = 5
_MAX_BYTES = 50 * 1024 * 1024


async def with_image_objects(values: Mapping[str, Any], *, private_urls: bool) -> dict[str, Any]:
    """Return the values with each image as an object.

    Raises NodeError for an image that cannot be fetched, or lies at a private address without `private_urls`.
    """
    found = {name: value for name, value in values.items() if has_images(value)}
    urls: dict[Picture, bytes] = {}
    mapped(found, lambda picture: urls.setdefault(picture, b"") if picture.kind == "url" else None)
    for picture in urls:
        try:
            urls[picture] = await _fetch(picture.text, private_urls)
        except (ValueError, OSError, httpx2.HTTPError) as error:
            raise NodeError(
                f"the image {picture.text[:80]!r} cannot be fetched: {error}", code="image_error"
            ) from error
    return {**values, **{name: mapped(value, lambda picture: _object(picture, urls)) for name, value in found.items()}}


def _object(picture: Picture, urls: Mapping[Picture, bytes]) -> Any:
    if picture.kind == "path":  # a node made it: promptflow leaves those alone
        return picture.as_value
    return image_object(picture, urls.get(picture))


async def _fetch(url: str, private: bool) -> bytes:
    async with httpx2.AsyncClient(timeout=_TIMEOUT_S) as client:
        for _ in range(_MAX_REDIRECTS):
            await _check_host(check_url(url, private=private), private)
            async with client.stream("GET", url) as response:
                if response.is_redirect:
                    url = urljoin(url, response.headers.get("location", ""))
                    continue
                if response.status_code != 200:
                    raise ValueError(f"the server answered {response.status_code}")
                return await _content(response)
    raise ValueError("it is redirected too often")


async def _check_host(host: str, private: bool) -> None:
    if private:
        return
    found = await asyncio.get_running_loop().getaddrinfo(host, None)
    if any(is_private(str(address[4][0])) for address in found):
        raise ValueError("its host has a private address; FLOWPOD_ALLOW_PRIVATE_URLS allows them")


async def _content(response: httpx2.Response) -> bytes:
    content = b""
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    return content
