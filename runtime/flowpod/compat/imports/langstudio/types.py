"""`from langstudio.types import File`: a file that a request names or a node returns.

The fields and their defaults follow LangStudio's page on file inputs and outputs. Nothing is fetched or uploaded here.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class File:
    """A file's location and name.

    `source_uri` is an http(s) URL, `oss://bucket/key`, or a local path, also as `file://`. `download_url` is None where
    it cannot be derived, `file_type` where it is unknown. Not frozen: nodes may set fields.
    """

    source_uri: str
    download_url: str | None = None
    file_id: str | None = None
    file_name: str | None = None
    file_type: str | None = None

    def __post_init__(self) -> None:
        """Set the defaults."""
        self.file_id = self.file_id or uuid.uuid4().hex[:8]
        path = urlsplit(self.source_uri).path if "://" in self.source_uri else self.source_uri
        self.file_name = self.file_name or unquote(path).rstrip("/").rpartition("/")[2]
        self.download_url = self.download_url or _download_url_of(self.source_uri)

    def get_download_url(self) -> str:
        """Return a download URL; raises ValueError for a file in OSS without one, which Flowpod cannot sign."""
        if not self.download_url:
            raise ValueError(f"{self.source_uri} has no download_url, and Flowpod cannot sign one")
        return self.download_url


def _download_url_of(source_uri: str) -> str | None:
    if "://" not in source_uri:
        return Path(source_uri).absolute().as_uri()
    return source_uri if source_uri.partition("://")[0].lower() in ("http", "https", "file") else None
