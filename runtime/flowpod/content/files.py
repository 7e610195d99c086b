"""The files that requests name: which of them a node may get, and the objects that nodes get for them.

Nothing is fetched here. A request names local files only under a configured folder, and URLs as `url_guard` allows.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flowpod.content.url_guard import check_resolved_url
from flowpod.flow.paths import kind_of


@dataclass(frozen=True, slots=True)
class Files:
    """What a service allows. `make` builds a node's object from a file's fields."""

    make: Callable[..., Any]
    mounts: tuple[Path, ...] = ()
    private_urls: bool = False

    async def check(self, fields: Mapping[str, str]) -> None:
        """Raise ValueError for a file that a request may not name; `fields` are those of `File`."""
        source = fields["source_uri"]
        scheme = source.partition("://")[0].lower() if "://" in source else ""
        if scheme in ("", "file"):
            name = unquote(urlsplit(source).path) if scheme else source
            # In a thread: a folder that is mounted over a network may answer slowly.
            await asyncio.to_thread(self._check_path, name, urlsplit(source).netloc)
        elif scheme in ("http", "https"):
            await check_resolved_url(source, private_urls=self.private_urls)
        elif scheme != "oss":
            raise ValueError(f"source_uri: {scheme}:// is not supported; use https://, oss:// or a path")
        if download_url := fields.get("download_url"):
            if not download_url.lower().startswith(("http://", "https://")):
                raise ValueError("download_url must be an http:// or https:// URL")
            await check_resolved_url(download_url, private_urls=self.private_urls)

    def _check_path(self, name: str, host: str) -> None:
        if not self.mounts:
            raise ValueError("local paths are not accepted: FLOWPOD_FILE_MOUNTS names no folder")
        path = Path(name)
        if host or not path.is_absolute() or "\0" in name:
            raise ValueError("a local path must be absolute")
        try:
            real = path.resolve()  # symbolic links must not lead out of a mount
        except (OSError, RuntimeError):  # a loop of symbolic links
            raise ValueError("the file does not exist") from None
        if not any(real.is_relative_to(mount.resolve()) for mount in self.mounts):
            raise ValueError("the path is outside the folders of FLOWPOD_FILE_MOUNTS")
        if kind_of(real) != "file":
            raise ValueError("the file does not exist")
