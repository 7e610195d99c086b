"""Images in a flow's values: `{"data:image/png;base64": ...}`, or with `url` or `path`, as promptflow writes them.

A value keeps this form from the request to the response. A node converts it where needed: to a content part of a
message, or to an object for Python code.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from flowpod.compat import modules_in_force
from flowpod.content.url_guard import check_url
from flowpod.jsonable import is_too_deep

_KEY = re.compile(r"data:image/(.*);(path|base64|url)")
_DATA_URL = re.compile(r"data:(image/[^;,]*);base64,(.*)", re.DOTALL)
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})++|[A-Za-z0-9+/]{2,}+={1,2}")
_TOKEN = f"\u2063image {secrets.token_hex(8)} "
TOKEN = re.compile(rf"{_TOKEN}\d+\u2063")
"""What stands for an image in a rendered prompt."""


ImageKind = Literal["base64", "url", "path"]


@dataclass(frozen=True, slots=True)
class ImageValue:
    """An image: its media type, and a `text` that is its content in base64, its URL or its path, by `kind`."""

    mime: str
    kind: ImageKind
    text: str

    @property
    def as_value(self) -> dict[str, str]:
        """The form of an image in a flow's values."""
        return {f"data:{self.mime};{self.kind}": self.text}

    @property
    def url(self) -> str:
        """The URL that a model reads it from."""
        return self.text if self.kind == "url" else f"data:{self.mime};base64,{self.text.rpartition(',')[2]}"


def image_in(value: Any) -> ImageValue | None:
    """Return the image that `value` is in promptflow's form or as an object of Python code; None for other values."""
    if isinstance(value, bytes) and hasattr(value, "to_base64"):  # promptflow's class, or the stand-in for it
        mime = str(getattr(value, "_mime_type", "image/*"))
        source = getattr(value, "source_url", None)
        return ImageValue(mime, "url", str(source)) if source else ImageValue(mime, "base64", value.to_base64())
    return _image_written_as(value)


def _image_written_as(value: Any) -> ImageValue | None:
    if not (isinstance(value, dict) and len(value) == 1):
        return None
    ((key, text),) = value.items()
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    if match is None or not isinstance(text, str):
        return None
    return ImageValue(f"image/{match[1]}", cast(ImageKind, match[2]), text)


def has_images(value: Any) -> bool:
    """Return whether a value holds an image at any depth; False for a value that is nested too deep."""
    return not is_too_deep(value) and _has_images(value)  # a value from Python code may contain itself


def _has_images(value: Any) -> bool:
    if image_in(value) is not None:
        return True
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_has_images(item) for item in items)


def map_images(value: Any, convert: Callable[[ImageValue], Any]) -> Any:
    """Return a copy of `value` with every image in promptflow's form converted."""
    if (image := _image_written_as(value)) is not None:
        return convert(image)
    if isinstance(value, list):
        return [map_images(item, convert) for item in value]
    if isinstance(value, dict):
        return {key: map_images(item, convert) for key, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class ImageRules:
    """Where images may come from. `folder` is the flow's, for images that the flow itself names; None for requests."""

    folder: Path | None = None
    private_urls: bool = False

    def checked(self, value: Any, *, is_image: bool = False) -> Any:
        """Return `value` with the content of its image files; raises ValueError for an invalid or refused image."""
        if is_image and image_in(value) is None:
            if not (isinstance(value, str) and value):
                raise ValueError("expected an image, such as {'data:image/png;url': 'https://example.com/a.png'}")
            value = _parse(value).as_value
        return map_images(value, lambda image: self._check(image).as_value)

    def _check(self, image: ImageValue) -> ImageValue:
        if image.kind == "url":
            check_url(image.text, private_urls=self.private_urls)
        elif image.kind == "base64":
            _decoded(image)
        elif self.folder is None:
            raise ValueError("a request must send images as base64 or URLs; paths are not accepted")
        else:
            path = (self.folder / image.text).absolute()
            if ".." in Path(image.text).parts or not path.is_relative_to(self.folder.absolute()):
                raise ValueError(f"the image {image.text!r} is outside the flow's folder")
            try:
                return ImageValue(image.mime, "base64", base64.b64encode(path.read_bytes()).decode())
            except OSError as error:
                raise ValueError(f"the image {image.text!r} cannot be read: {error.strerror}") from None
        return image


def _parse(text: str) -> ImageValue:
    if match := _DATA_URL.fullmatch(text):
        return ImageValue(match[1], "base64", match[2])
    if "://" in text:
        return ImageValue("image/*", "url", text)
    return ImageValue("image/*", "base64" if _BASE64.fullmatch(text) else "path", text)


def _decoded(image: ImageValue) -> bytes:
    try:
        return base64.b64decode(image.text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the image is not valid base64") from None


def image_object(image: ImageValue, content: bytes | None = None) -> Any:
    """Return the image as the object that promptflow passes to Python code; `content` is what its URL holds."""
    make = modules_in_force.multimedia().Image
    mime = None if image.mime == "image/*" else image.mime
    return make(_decoded(image), mime) if content is None else make(content, mime, image.text)


class _Lines(list[Any]):
    """A list that a template prints with one item per line, as promptflow does."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))


@dataclass
class PromptImages:
    """The images of one prompt: each is rendered as a token, which `parts` maps to a content part of the message."""

    detail: str = "auto"
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def printed(self, values: Mapping[str, Any], *, lists_as_lines: bool) -> dict[str, Any]:
        """Return the values with tokens for images; a list that holds an image is rendered with one item per line."""
        return {
            name: self._printed(value, lists_as_lines) if lists_as_lines or has_images(value) else value
            for name, value in values.items()
        }

    def _printed(self, value: Any, lines: bool) -> Any:
        if (image := image_in(value)) is not None:
            return self._token(image)
        if isinstance(value, dict):
            return {key: self._printed(item, lines) for key, item in value.items()}
        if type(value) is list:
            items = [self._printed(item, lines) for item in value]
            return _Lines(items) if lines or any(image_in(item) for item in value) else items
        return value

    def _token(self, image: ImageValue) -> str:
        token = f"{_TOKEN}{len(self.parts)}\u2063"
        self.parts[token] = {"type": "image_url", "image_url": {"url": image.url, "detail": self.detail}}
        return token
