"""The files that a request may name."""

from pathlib import Path

import pytest
from langstudio.types import File

from flowpod.content.files import Files


async def refused(files: Files, source_uri: str, **fields: str) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        await files.check({"source_uri": source_uri, **fields})
    return str(caught.value)


NOT_PUBLIC = ["http://127.0.0.1/a", "https://localhost:8443/a"]


@pytest.mark.parametrize("url", NOT_PUBLIC)
async def test_url_of_a_private_address_needs_the_setting(url: str) -> None:
    assert "FLOWPOD_ALLOW_PRIVATE_URLS=on" in await refused(Files(File), url)
    assert "FLOWPOD_ALLOW_PRIVATE_URLS=on" in await refused(Files(File), "oss://bucket/key", download_url=url)
    await Files(File, private_urls=True).check({"source_uri": url, "download_url": url})


@pytest.mark.parametrize("source_uri", ["https://8.8.8.8/a.pdf", "https://nowhere.invalid/a", "oss://bucket/key.pdf"])
async def test_public_source_is_accepted(source_uri: str) -> None:
    await Files(File).check({"source_uri": source_uri})


@pytest.mark.parametrize(
    ("source_uri", "message"),
    [
        ("ftp://8.8.8.8/a", "source_uri: ftp:// is not supported; use https://, oss:// or a path"),
        ("http://8.8.8.8\\@127.0.0.1/", "'http://8.8.8.8\\\\@127.0.0.1/' is not a valid http:// or https:// URL"),
    ],
)
async def test_any_other_source_is_refused(source_uri: str, message: str) -> None:
    assert await refused(Files(File), source_uri) == message


@pytest.mark.parametrize("url", ["oss://bucket/key", "file:///etc/passwd", "/etc/passwd"])
async def test_download_url_must_be_http_or_https(url: str) -> None:
    files = Files(File, (Path("/"),))
    assert (
        await refused(files, "https://8.8.8.8", download_url=url) == "download_url must be an http:// or https:// URL"
    )


async def test_path_needs_a_mount(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for source in (str(tmp_path / "a.txt"), (tmp_path / "a.txt").as_uri()):
        assert await refused(Files(File), source) == "local paths are not accepted: FLOWPOD_FILE_MOUNTS names no folder"
        await Files(File, (tmp_path,)).check({"source_uri": source})


@pytest.mark.parametrize(
    ("source_uri", "message"),
    [
        ("a.txt", "a local path must be absolute"),
        ("file:{mount}/a.txt", "a local path must be absolute"),
        ("file://host{mount}/a.txt", "a local path must be absolute"),
        ("//host{mount}/a.txt", "a local path must be absolute"),
        ("{mount}/a\0.txt", "a local path must be absolute"),
        ("{mount}/../secret.txt", "the path is outside the folders of FLOWPOD_FILE_MOUNTS"),
        ("file://{mount}/%2e%2e/secret.txt", "the path is outside the folders of FLOWPOD_FILE_MOUNTS"),
        ("{mount}/link.txt", "the path is outside the folders of FLOWPOD_FILE_MOUNTS"),
        ("{mount}-other/a.txt", "the path is outside the folders of FLOWPOD_FILE_MOUNTS"),
        ("{mount}/none.txt", "the file does not exist"),
        ("{mount}", "the file does not exist"),
        ("{mount}/" + "a" * 300, "the file does not exist"),
        ("{mount}/circle", "the file does not exist"),
    ],
)
async def test_path_must_be_inside_a_mount(tmp_path: Path, source_uri: str, message: str) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    (tmp_path / "secret.txt").write_text("s")
    (mount / "a.txt").write_text("a")
    (mount / "link.txt").symlink_to(tmp_path / "secret.txt")
    (mount / "circle").symlink_to(mount / "circle")
    (tmp_path / "mount-other").mkdir()
    (tmp_path / "mount-other" / "a.txt").write_text("a")
    assert await refused(Files(File, (mount,)), source_uri.format(mount=mount)) == message


async def test_mount_may_be_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("a")
    (tmp_path / "mount").symlink_to(tmp_path / "real")
    await Files(File, (tmp_path / "mount",)).check({"source_uri": str(tmp_path / "mount" / "a.txt")})
