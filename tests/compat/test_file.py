"""`langstudio.types.File`, as nodes use it."""

import dataclasses

import orjson
import pytest
from langstudio.types import File

from flowpod.jsonable import dumps


@pytest.mark.parametrize(
    ("source_uri", "name", "download_url"),
    [
        ("https://host/a/b%20c.pdf?x=1#y", "b c.pdf", "https://host/a/b%20c.pdf?x=1#y"),
        ("HTTP://host/a.pdf", "a.pdf", "HTTP://host/a.pdf"),
        ("https://host", "", "https://host"),
        ("oss://bucket/folder/k\u00e9y.wav", "k\u00e9y.wav", None),
        ("/mnt/data/re port.md", "re port.md", "file:///mnt/data/re%20port.md"),
        ("file:///mnt/data/report.md", "report.md", "file:///mnt/data/report.md"),
        ("/mnt/folder/", "folder", "file:///mnt/folder"),
    ],
)
def test_missing_fields_get_defaults(source_uri: str, name: str, download_url: str | None) -> None:
    file = File(source_uri)
    assert (file.source_uri, file.file_name, file.download_url, file.file_type) == (
        source_uri,
        name,
        download_url,
        None,
    )
    assert file.file_id is not None
    assert len(file.file_id) == 8
    assert file.file_id != File(source_uri).file_id


def test_given_fields_are_kept() -> None:
    given = {
        "source_uri": "oss://bucket/key",
        "download_url": "https://signed",
        "file_id": "12345678",
        "file_name": "other.pdf",
        "file_type": "document",
    }
    file = File(**given)
    assert dataclasses.asdict(file) == given
    assert file.get_download_url() == "https://signed"
    assert File(**orjson.loads(dumps(file))) == file


def test_download_url_is_the_source_if_that_is_a_url() -> None:
    assert File("https://host/a.pdf").get_download_url() == "https://host/a.pdf"


def test_a_file_in_oss_cannot_be_signed_here() -> None:
    with pytest.raises(ValueError, match=r"^oss://bucket/key has no download_url"):
        File("oss://bucket/key").get_download_url()
