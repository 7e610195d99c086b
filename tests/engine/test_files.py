"""Which files a request may name."""

from pathlib import Path

import pytest
from flowpod.content.files import Files
from langstudio.types import File

PRIVATE = [
    "http://127.0.0.1/a",
    "https://localhost:8443/a",
    "http://127.1/a",
    "http://2130706433/a",
    "http://0x7f000001/a",
    "http://0.0.0.0/a",
    "http://10.1.2.3/a",
    "http://172.16.0.1/a",
    "http://192.168.1.1/a",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/a",
    "http://224.0.0.1/a",
    "http://[::1]/a",
    "http://[fe80::1]/a",
    "http://[fd00::1]/a",
    "http://[::ffff:127.0.0.1]/a",
    "http://[2002:7f00:1::]/a",
    "http://user:word@127.0.0.1/a",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/a",
]
PUBLIC = [
    "https://8.8.8.8/a.pdf",
    "http://8.8.8.8:8080",
    "HTTPS://[2001:4860:4860::8888]/a",
    "https://nowhere.invalid/a",
]


async def refused(files: Files, source_uri: str, **fields: str) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        await files.check({"source_uri": source_uri, **fields})
    return str(caught.value)


@pytest.mark.parametrize("url", PRIVATE)
async def test_a_url_into_the_own_network_is_refused(url: str) -> None:
    assert "FLOWPOD_ALLOW_PRIVATE_URLS=on" in await refused(Files(File), url)
    assert "FLOWPOD_ALLOW_PRIVATE_URLS=on" in await refused(Files(File), "oss://bucket/key", download_url=url)


@pytest.mark.parametrize("url", PRIVATE)
async def test_a_url_into_the_own_network_is_taken_where_that_is_allowed(url: str) -> None:
    await Files(File, private_urls=True).check({"source_uri": url, "download_url": url})


@pytest.mark.parametrize("source_uri", [*PUBLIC, "oss://bucket/key.pdf"])
async def test_a_public_place_is_taken(source_uri: str) -> None:
    await Files(File).check({"source_uri": source_uri})


@pytest.mark.parametrize(
    ("source_uri", "message"),
    [
        ("ftp://8.8.8.8/a", "source_uri: ftp:// is not supported; use https://, oss:// or a path"),
        ("http://", "'http://' is not a valid URL"),
        ("http:///a", "'http:///a' is not a valid URL"),
        ("http://8.8.8.8\\@127.0.0.1/", "'http://8.8.8.8\\\\@127.0.0.1/' is not a valid URL"),
        ("http://8.8.8.8 /", "'http://8.8.8.8 /' is not a valid URL"),
        ("http://%31%32%37.0.0.1/", "'http://%31%32%37.0.0.1/' is not a valid URL"),
        ("http://[::1", "Invalid IPv6 URL"),
        (f"http://{'x' * 70}.y/", f"'{'x' * 70}.y' is not a valid host"),
    ],
)
async def test_what_is_no_place_is_refused(source_uri: str, message: str) -> None:
    assert await refused(Files(File, private_urls="%" in source_uri), source_uri) == message


@pytest.mark.parametrize("url", ["oss://bucket/key", "file:///etc/passwd", "/etc/passwd"])
async def test_a_download_url_is_a_url(url: str) -> None:
    files = Files(File, (Path("/"),))
    assert (
        await refused(files, "https://8.8.8.8", download_url=url) == "download_url must be an http:// or https:// URL"
    )


async def test_a_path_needs_a_mount(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for source in (str(tmp_path / "a.txt"), (tmp_path / "a.txt").as_uri()):
        assert await refused(Files(File), source) == "local paths are not taken: FLOWPOD_FILE_MOUNTS names no folder"
        await Files(File, (tmp_path,)).check({"source_uri": source})


@pytest.mark.parametrize(
    ("source_uri", "message"),
    [
        ("a.txt", "a local path must be absolute"),
        ("file:{mount}/a.txt", "a local path must be absolute"),
        ("file://host{mount}/a.txt", "a local path must be absolute"),
        ("//host{mount}/a.txt", "a local path must be absolute"),
        ("{mount}/a\0.txt", "a local path must be absolute"),
        ("{mount}/../secret.txt", "the path is in none of the folders of FLOWPOD_FILE_MOUNTS"),
        ("file://{mount}/%2e%2e/secret.txt", "the path is in none of the folders of FLOWPOD_FILE_MOUNTS"),
        ("{mount}/link.txt", "the path is in none of the folders of FLOWPOD_FILE_MOUNTS"),
        ("{mount}-other/a.txt", "the path is in none of the folders of FLOWPOD_FILE_MOUNTS"),
        ("{mount}/none.txt", "there is no such file"),
        ("{mount}", "there is no such file"),
        ("{mount}/" + "a" * 300, "there is no such file"),
        ("{mount}/circle", "there is no such file"),
    ],
)
async def test_a_path_must_lead_into_a_mount(tmp_path: Path, source_uri: str, message: str) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    (tmp_path / "secret.txt").write_text("s")
    (mount / "a.txt").write_text("a")
    (mount / "link.txt").symlink_to(tmp_path / "secret.txt")
    (mount / "circle").symlink_to(mount / "circle")
    (tmp_path / "mount-other").mkdir()
    (tmp_path / "mount-other" / "a.txt").write_text("a")
    assert await refused(Files(File, (mount,)), source_uri.format(mount=mount)) == message


async def test_a_mount_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("a")
    (tmp_path / "mount").symlink_to(tmp_path / "real")
    await Files(File, (tmp_path / "mount",)).check({"source_uri": str(tmp_path / "mount" / "a.txt")})
