"""Images as a flow's Python code sees them: bytes with a media type."""

import base64
import hashlib

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


class PFBytes(bytes):
    """Bytes with a media type and, if they were fetched, the URL."""

    _mime_type: str
    _source_url: str | None

    def __new__(cls, value: bytes, mime_type: str, source_url: str | None = None) -> "PFBytes":
        made = super().__new__(cls, value)
        made._mime_type = mime_type.lower()
        made._source_url = source_url
        return made

    @property
    def source_url(self) -> str | None:
        """The URL that the bytes were fetched from."""
        return self._source_url

    def to_base64(self, with_type: bool = False) -> str:
        """Return the bytes as base64, `with_type` as a data URL."""
        text = base64.b64encode(self).decode()
        return f"data:{self._mime_type};base64,{text}" if with_type else text


class Image(PFBytes):
    """An image; its first bytes give the media type if `mime_type` does not."""

    def __new__(cls, value: bytes, mime_type: str | None = None, source_url: str | None = None) -> "Image":
        made = super().__new__(cls, value, mime_type or _mime_type(value), source_url)
        assert isinstance(made, cls)
        return made

    def __str__(self) -> str:
        return f"Image({hashlib.sha256(self).hexdigest()[:8]})"

    __repr__ = __str__


def _mime_type(value: bytes) -> str:
    if value[:4] == b"RIFF" and value[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES if value.startswith(signature)), "image/*")
