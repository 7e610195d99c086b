"""`from langstudio.types import File`: a file that a request names, or that a node gives back.

Fields and what is made up for the ones that are left out are LangStudio's, as its page on file inputs and outputs has
them. Nothing is fetched or uploaded here.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class File:
    """A file: where it is, and what it is called.

    `source_uri` is an http(s) URL, `oss://bucket/key`, or a local path, also as `file://`. `download_url` is None where
    none can be made, `file_type` where nobody said. Not frozen: nodes may set what they know better.
    """

    source_uri: str
    download_url: str | None = None
    file_id: str | None = None
    file_name: str | None = None
    file_type: str | None = None

    def __post_init__(self) -> None:
        """Fill in what was left out."""
        self.file_id = self.file_id or uuid.uuid4().hex[:8]
        path = urlsplit(self.source_uri).path if "://" in self.source_uri else self.source_uri
        self.file_name = self.file_name or unquote(path).rstrip("/").rpartition("/")[2]
        self.download_url = self.download_url or _address(self.source_uri)

    def get_download_url(self) -> str:
        """Return an address at which the file can be had.

        Raises ValueError for a file in OSS that came without one: it would have to be signed with the bucket's keys.
        """
        if not self.download_url:
            raise ValueError(f"{self.source_uri} came without a download_url, and Flowpod cannot sign one")
        return self.download_url


def _address(source_uri: str) -> str | None:
    if "://" not in source_uri:
        return Path(source_uri).absolute().as_uri()
    return source_uri if source_uri.partition("://")[0].lower() in ("http", "https", "file") else None
