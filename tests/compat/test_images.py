import base64

import pytest

from flowpod.compat.images import Image


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF....WEBP", "image/webp"),
        (b"BM", "image/bmp"),
        (b"II*\x00", "image/tiff"),
        (b"else", "image/*"),
    ],
)
def test_type_is_read_from_the_bytes(start: bytes, kind: str) -> None:
    image = Image(start + b"rest")
    encoded = base64.b64encode(start + b"rest").decode()
    assert image == start + b"rest"
    assert image.to_base64() == encoded
    assert image.to_base64(with_type=True) == f"data:{kind};base64,{encoded}"


def test_type_and_url_may_be_given() -> None:
    image = Image(b"x", "image/PNG", source_url="https://e/x.png")
    assert image.to_base64(with_type=True).startswith("data:image/png;base64,")
    assert image.source_url == "https://e/x.png"
    assert Image(b"x").source_url is None


def test_repr_is_short_and_differs_between_images() -> None:
    assert len(str(Image(b"x" * 1000))) == len("Image(01234567)")
    assert str(Image(b"x")) != repr(Image(b"y"))
