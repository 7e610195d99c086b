"""Images in a flow's values: `{"data:image/png;base64": ...}`, or with `url` or `path`, as promptflow writes them.

A value keeps this form from the request to the response. A node that needs more makes it: a part of a message, or an
object for Python code.
"""

import base64
import binascii
import importlib
import ipaddress
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flowpod.jsonable import is_too_deep

_KEY = re.compile(r"data:image/(.*);(path|base64|url)")
_DATA_URL = re.compile(r"data:(image/[^;,]*);base64,(.*)", re.DOTALL)
_TOKEN = secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image: its media type, and the text that holds it or says where it is."""

    mime: str
    kind: str
    text: str

    @property
    def as_value(self) -> dict[str, str]:
        """The form of an image in a flow's values."""
        return {f"data:{self.mime};{self.kind}": self.text}

    @property
    def url(self) -> str:
        """The address that a model reads it from."""
        return self.text if self.kind == "url" else f"data:{self.mime};base64,{self.text.rpartition(',')[2]}"


def picture_of(value: Any) -> Picture | None:
    """Return the image that a value is, None when it is none."""
    if isinstance(value, bytes) and hasattr(value, "to_base64"):  # an object that Python code made
        mime = str(getattr(value, "_mime_type", "image/*"))
        source = getattr(value, "source_url", None)
        return Picture(mime, "url", str(source)) if source else Picture(mime, "base64", value.to_base64())
    return _written(value)


def _written(value: Any) -> Picture | None:
    if not (isinstance(value, dict) and len(value) == 1):
        return None
    ((key, text),) = value.items()
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    return Picture(f"image/{match[1]}", match[2], text) if match and isinstance(text, str) else None


def has_images(value: Any) -> bool:
    """Return whether there is an image in a value's lists and objects; in one that is nested too deep there is none."""
    return not is_too_deep(value) and _has_images(value)  # a value of Python code may hold itself


def _has_images(value: Any) -> bool:
    if picture_of(value) is not None:
        return True
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_has_images(item) for item in items)


def mapped(value: Any, change: Callable[[Picture], Any]) -> Any:
    """Return `value` with each image that is written in it replaced by what `change` makes of it."""
    if (picture := _written(value)) is not None:
        return change(picture)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class ImageRules:
    """Where images may come from. `folder` is the flow's, for what the flow itself says; a request reads no files."""

    folder: Path | None = None
    private_urls: bool = False

    def checked(self, value: Any, *, is_image: bool = False) -> Any:
        """Return `value`, of a file its content in the file's place; `is_image` says that it must be an image.

        Raises ValueError for an image that may not be read or is none.
        """
        if is_image and picture_of(value) is None:
            if not (isinstance(value, str) and value):
                raise ValueError("expected an image, such as {'data:image/png;url': 'https://example.com/a.png'}")
            value = _from_text(value).as_value
        return mapped(value, lambda picture: self._checked(picture).as_value)

    def _checked(self, picture: Picture) -> Picture:
        if picture.kind == "url":
            check_url(picture.text, private=self.private_urls)
        elif picture.kind == "base64":
            _decoded(picture)
        elif self.folder is None:
            raise ValueError("an image of a request is sent as base64 or as a URL; files are not read")
        else:
            path = (self.folder / picture.text).absolute()
            if ".." in Path(picture.text).parts or not path.is_relative_to(self.folder.absolute()):
                raise ValueError(f"the image {picture.text!r} lies outside the flow's folder")
            try:
                return Picture(picture.mime, "base64", base64.b64encode(path.read_bytes()).decode())
            except OSError as error:
                raise ValueError(f"the image {picture.text!r} cannot be read: {error.strerror}") from None
        return picture


def _from_text(text: str) -> Picture:
    if match := _DATA_URL.fullmatch(text):
        return Picture(match[1], "base64", match[2])
    if "://" in text:
        return Picture("image/*", "url", text)
    kind = "base64" if re.fullmatch(r"(?:[A-Za-z0-9+/]{4})+|(?:[A-Za-z0-9+/]{2,4})+={1,2}", text) else "path"
    return Picture("image/*", kind, text)


def _decoded(picture: Picture) -> bytes:
    try:
        return base64.b64decode(picture.text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("an image is not valid base64") from None


def check_url(url: str, *, private: bool) -> str:
    """Return the host of an http address; raises ValueError for any other, and for a private one unless `private`.

    The name of a host is looked up by who fetches the image.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = None, ""
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{url[:80]!r} is no http address of an image")
    if not private and (host == "localhost" or host.endswith(".localhost") or is_private(host)):
        raise ValueError(f"{url[:80]!r} is a private address; FLOWPOD_ALLOW_PRIVATE_URLS allows them")
    return host


def is_private(address: str) -> bool:
    """Return whether an IP address is of this machine or its network; False for a name."""
    try:
        return not ipaddress.ip_address(address.partition("%")[0]).is_global
    except ValueError:
        return False


def image_object(picture: Picture, content: bytes | None = None) -> Any:
    """Return the image as the object that promptflow gives to Python code; `content` is what its URL had."""
    module = importlib.import_module("promptflow.contracts.multimedia")
    mime = None if picture.mime == "image/*" else picture.mime
    if content is not None:
        return module.Image(content, mime, picture.text)
    return module.Image(_decoded(picture), mime)


class _Lines(list[Any]):
    """A list that a template prints an item a line, as promptflow's."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))


@dataclass
class PromptImages:
    """The images among the values of one prompt: each is printed as a token, for which a part of a message is put."""

    detail: str = "auto"
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def printed(self, values: Mapping[str, Any], *, lists_as_lines: bool) -> dict[str, Any]:
        """Return the values with tokens for images; a list with an image in it is printed an item a line."""
        return {
            name: self._printed(value, lists_as_lines) if lists_as_lines or has_images(value) else value
            for name, value in values.items()
        }

    def _printed(self, value: Any, lines: bool) -> Any:
        if (picture := picture_of(value)) is not None:
            return self._token(picture)
        if isinstance(value, dict):
            return {key: self._printed(item, lines) for key, item in value.items()}
        if type(value) is list:
            items = [self._printed(item, lines) for item in value]
            return _Lines(items) if lines or any(picture_of(item) for item in value) else items
        return value

    def _token(self, picture: Picture) -> str:
        token = f"\u2063image {_TOKEN} {len(self.parts)}\u2063"
        self.parts[token] = {"type": "image_url", "image_url": {"url": picture.url, "detail": self.detail}}
        return token
