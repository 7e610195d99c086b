"""Fetching the images that a request names by URL, for consumers that need their bytes, such as Python code."""

from collections.abc import Mapping, Sequence
from typing import Any

from flowpod.content.images import ImageValue, has_images, image_object, map_images
from flowpod.errors import NodeError

_MAX_IMAGES = 100
_MAX_BYTES = 50 * 1024 * 1024  # of all images together


async def with_image_objects(values: Mapping[str, Any], *, private_urls: bool) -> dict[str, Any]:
    """Return the values with each image as an object. Raises NodeError for an image that cannot be fetched."""
    found = _with_images(values)
    if not found:
        return dict(values)
    contents = await _contents(_urls_in(found), private_urls)

    def object_of(image: ImageValue) -> Any:
        if image.kind == "path":  # a node made it; promptflow leaves such images alone
            return image.as_value
        return image_object(image, contents.get(image))

    return {**values, **{name: map_images(value, object_of) for name, value in found.items()}}


async def with_fetched_images(
    values: Mapping[str, Any], given: Mapping[str, Any], *, private_urls: bool
) -> Mapping[str, Any]:
    """Return the values with an object for each image that is a URL and in `given`. Raises NodeError as above."""
    named = frozenset(_urls_in(_with_images(given)))
    found = _with_images(values) if named else {}
    contents = await _contents([image for image in _urls_in(found) if image in named], private_urls)

    def object_of(image: ImageValue) -> Any:
        return image_object(image, contents[image]) if image in contents else image.as_value

    return {**values, **{name: map_images(value, object_of) for name, value in found.items()}}


def _with_images(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if has_images(value)}


def _urls_in(values: Mapping[str, Any]) -> list[ImageValue]:
    found: dict[ImageValue, None] = {}
    map_images(dict(values), lambda image: found.setdefault(image) if image.kind == "url" else None)
    return list(found)


async def _contents(images: Sequence[ImageValue], private_urls: bool) -> dict[ImageValue, bytes]:
    if len(images) > _MAX_IMAGES:
        text = f"there are {len(images)} images to fetch; at most {_MAX_IMAGES} are fetched for one call"
        raise NodeError(text, code="image_error")
    contents, left = dict[ImageValue, bytes](), _MAX_BYTES
    if not images:
        return contents
    from flowpod.content.url_fetch import fetch  # only here: few flows fetch, and its HTTP client costs each start

    for image in images:
        try:
            contents[image] = await fetch(image.text, private_urls=private_urls, max_bytes=left)
        except ValueError as error:
            raise NodeError(f"the image {image.text[:80]!r} cannot be fetched: {error}", code="image_error") from error
        left -= len(contents[image])
    return contents
