"""Images for those who want their bytes, Python code for one: those behind a URL are fetched."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urljoin

import httpx2

from flowpod.content.images import Picture, check_url, has_images, image_object, is_private, mapped
from flowpod.errors import NodeError

_TIMEOUT_S = 30
_MAX_REDIRECTS = 5
_MAX_BYTES = 50 * 1024 * 1024


async def with_image_objects(values: Mapping[str, Any], *, private_urls: bool) -> dict[str, Any]:
    """Return the values with each image as an object.

    Raises NodeError for an image that cannot be fetched, or lies at a private address without `private_urls`.
    """
    found = {name: value for name, value in values.items() if has_images(value)}
    if not found:
        return dict(values)
    contents = await _contents(_urls_in(found), private_urls)
    objects = {name: mapped(value, lambda picture: _object(picture, contents)) for name, value in found.items()}
    return {**values, **objects}


async def with_fetched_images(
    values: Mapping[str, Any], given: Mapping[str, Any], *, private_urls: bool
) -> Mapping[str, Any]:
    """Return the values with an object in the place of each image that is a URL and that `given` has too.

    Raises NodeError as `with_image_objects` does.
    """
    named = _urls_in({name: value for name, value in given.items() if has_images(value)})
    found = {name: value for name, value in values.items() if has_images(value)} if named else {}
    contents = await _contents([picture for picture in _urls_in(found) if picture in named], private_urls)

    def object_of(picture: Picture) -> Any:
        return image_object(picture, contents[picture]) if picture in contents else picture.as_value

    return {**values, **{name: mapped(value, object_of) for name, value in found.items()}}


def _urls_in(values: Mapping[str, Any]) -> list[Picture]:
    found: dict[Picture, None] = {}
    mapped(dict(values), lambda picture: found.setdefault(picture) if picture.kind == "url" else None)
    return list(found)


async def _contents(pictures: Iterable[Picture], private_urls: bool) -> dict[Picture, bytes]:
    contents = {}
    for picture in pictures:
        try:
            contents[picture] = await _fetch(picture.text, private_urls)
        except (ValueError, OSError, httpx2.HTTPError) as error:
            raise NodeError(
                f"the image {picture.text[:80]!r} cannot be fetched: {error}", code="image_error"
            ) from error
    return contents


def _object(picture: Picture, contents: Mapping[Picture, bytes]) -> Any:
    if picture.kind == "path":  # a node made it: promptflow leaves those alone
        return picture.as_value
    return image_object(picture, contents.get(picture))


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
