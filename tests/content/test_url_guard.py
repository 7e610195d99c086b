"""Which URLs may be used, and the fetch that connects to nothing else."""

import asyncio
import re
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from flowpod.content.url_fetch import fetch
from flowpod.content.url_guard import Address, check_resolved_url, check_url, is_public
from tests.support.serving import ROOT, in_thread

PUBLIC = """
    8.8.8.8  2001:4860:4860::8888  ::ffff:8.8.8.8  2002:808:808::1  64:ff9b::8.8.8.8  64:ff9b:1::8.8.8.8
    2001:0:808:808:0:0:f7f7:f7f7
""".split()
PRIVATE = """
    100.64.0.1  192.0.0.1  192.0.0.200  192.0.2.1  198.18.0.1  198.51.100.1  203.0.113.1  192.88.99.1  239.255.255.250  0.1.2.3
    64:ff9b::7f00:1  64:ff9b:1:ffff::1  2002:c0a8:101::1  2001:2::1  2001:10::1  100::1  3fff::1  5f00::1  ::8.8.8.8
    127.0.0.1  10.1.2.3  172.16.0.1  192.168.1.1  169.254.169.254  100.100.100.200  0.0.0.0  224.0.0.1  240.0.0.1
    255.255.255.255  ::  ::1  fe80::1  fd00::1  fec0::1  ff02::1  ff0e::1  2001:db8::1  ::127.0.0.1
    ::ffff:127.0.0.1  ::ffff:169.254.169.254  ::ffff:224.0.0.1  ::ffff:0:10.0.0.1  2002:7f00:1::  2002:a00:1::1
    64:ff9b::10.0.0.1  64:ff9b:1::192.168.0.1  64:ff9b:1:a9fe:0:a9fe:808:808  2001:0:808:808:0:0:f5ff:fffe
    2001:0:a00:1:0:0:f7f7:f7f7
""".split()


@pytest.mark.parametrize("address", PUBLIC)
def test_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_any_other_address_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


NOT_PUBLIC = [
    "http://127.0.0.1/a",
    "https://localhost:8443/a",
    "http://LOCALHOST./a",
    "http://a.localhost/a",
    "http://127.0.0.1./a",
    "http://127.1/a",
    "http://2130706433/a",
    "http://0x7f000001/a",
    "http://0177.0.0.1/a",
    "http://017700000001/a",
    "http://0x7f.1/a",
    "http://0/a",
    "http://[::1]/a",
    "http://[::ffff:7f00:1]/a",
    "http://[2002:7f00:1::]/a",
    "http://[::]/a",
    "http://[::127.0.0.1]/a",
    "http://[64:ff9b::7f00:1]/a",
    "http://[fec0::1]/a",
    "http://user:word@127.0.0.1/a",
    "http://8.8.8.8@127.0.0.1/a",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/a",
    "http://127\u30020\u30020\u30021/a",
    "http://\uff4c\uff4fcalhost/a",
]


@pytest.mark.parametrize("url", NOT_PUBLIC)
async def test_url_with_an_address_that_is_not_public_needs_the_setting(url: str) -> None:
    with pytest.raises(
        ValueError, match="is not a public address; FLOWPOD_ALLOW_PRIVATE_URLS=on allows such addresses"
    ):
        check_url(url)
    check_url(url, private_urls=True)
    await check_resolved_url(url, private_urls=True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.png",
        "ftp://8.8.8.8/a",
        "http:8.8.8.8",
        "http://",
        "http:///a",
        "http://[::1",
        "http://8.8.8.8:port/",
        "http://8.8.8.8:99999/",
        "http://8.8.8.8\\@127.0.0.1/",
        "http://8.8.8.8 /",
        "http://8.8.8.8/a b",
        "http://8.8.8.8/\u3000",
        "http://8.8.8.8\t/",
        "http://8.8.8.8/\x00",
        "http://8.8.8.8/\r\nHost: b",
        "http://%31%32%37.0.0.1/",
        "http://[fe80::1%25eth0]/",
        f"http://{'x' * 70}.y/",
        "http://a..b/",
    ],
)
@pytest.mark.parametrize("private_urls", [False, True])
def test_url_that_is_invalid_or_ambiguous_is_refused(url: str, private_urls: bool) -> None:
    with pytest.raises(ValueError, match="is not a valid http:// or https:// URL"):
        check_url(url, private_urls=private_urls)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://8.8.8.8/a.pdf", "8.8.8.8"),
        ("HTTPS://[2001:4860:4860::8888]:8080", "2001:4860:4860::8888"),
        ("https://Example.com/a%20b//c%2f?q=%40#x", "example.com"),
        ("https://us%40er:w%3Ard@example.com/", "example.com"),
        ("https://b\u00fccher.example/\u00e4", "xn--bcher-kva.example"),
    ],
)
async def test_url_of_a_public_host_or_of_a_name_passes(url: str, host: str) -> None:
    assert check_url(url) == host


def test_only_the_guard_fetches_what_a_request_names() -> None:
    """Besides the guard, only the models' clients call anything: the addresses of connections."""
    clients = re.compile(
        r"\b(AsyncClient|DefaultAioHttpClient|HTTPTransport|urlopen|create_connection|open_connection|aiohttp\.(ClientSession|request)|import requests)"
    )
    runtime = ROOT / "runtime" / "flowpod"
    having = {str(path.relative_to(runtime)) for path in runtime.rglob("*.py") if clients.search(path.read_text())}
    assert having == {"content/url_fetch.py", "models/client.py"}


async def test_unknown_name_passes_the_check_and_fails_the_fetch() -> None:
    await check_resolved_url("https://nowhere.invalid/a")
    with pytest.raises(ValueError, match=r"."):
        await fetch("https://nowhere.invalid/a")


def loopback_1(address: Address) -> bool:
    return str(address) == "127.0.0.1"


async def host(request: Any) -> Response:
    return PlainTextResponse(f"{request.url.scheme} {request.headers['host']}")


async def redirect(request: Any) -> Response:
    return RedirectResponse(request.query_params["to"])


async def count_down(request: Any) -> Response:
    left = int(request.path_params["left"])
    return RedirectResponse(f"/count/{left - 1}") if left else PlainTextResponse("the end")


async def never(request: Any) -> Response:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response()


APP = Starlette(
    routes=[
        Route("/host", host),
        Route("/redirect", redirect),
        Route("/count/{left}", count_down),
        Route("/never", never),
    ]
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with in_thread(APP) as url:
        yield url


async def test_fetch_follows_redirects_up_to_five(server: str) -> None:
    assert await fetch(f"{server}/count/5", is_allowed=loopback_1) == b"the end"
    with pytest.raises(ValueError, match="redirects more than 5 times"):
        await fetch(f"{server}/count/6", is_allowed=loopback_1)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("http://127.0.0.2:{port}/host", "127.0.0.2 is not a public address"),
        ("//127.0.0.2:{port}/host", "127.0.0.2 is not a public address"),
        ("http://[::1]:{port}/host", "::1 is not a public address"),
        ("http://2130706434:{port}/host", "2130706434 is not a public address"),
        ("file:///etc/passwd", "is not a valid http:// or https:// URL"),
    ],
)
async def test_redirect_to_an_address_that_is_not_allowed_is_refused(server: str, to: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await fetch(f"{server}/redirect?to={to.format(port=server.rpartition(':')[2])}", is_allowed=loopback_1)


async def test_private_urls_switches_the_address_rule_off(server: str) -> None:
    with pytest.raises(ValueError, match=r"^127\.0\.0\.1 is not a public address"):
        await fetch(f"{server}/host")
    address = server.removeprefix("http://")
    assert await fetch(f"{server}/host", private_urls=True) == f"http {address}".encode()


async def test_content_and_time_are_limited(server: str) -> None:
    with pytest.raises(ValueError, match="it is larger than 6 bytes"):
        await fetch(f"{server}/count/0", is_allowed=loopback_1, max_bytes=6)
    with pytest.raises(ValueError, match=r"it takes longer than 0\.2 seconds"):
        await fetch(f"{server}/never", is_allowed=loopback_1, timeout_s=0.2)


class Names:
    """A name server: each look-up of a name gets its next answer; the last one is repeated."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        answers = self._answers[host.removesuffix(".test")]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.mark.fault("a name resolves to another address after its check")
async def test_connection_goes_to_the_address_that_was_checked(server: str) -> None:
    port, names = server.rpartition(":")[2], Names(rebound=[["127.0.0.1"], ["127.0.0.2"]])
    content = await fetch(f"http://rebound.test:{port}/host", is_allowed=loopback_1, resolve=names)
    assert (content, names.asked) == (f"http rebound.test:{port}".encode(), ["rebound.test"])


@pytest.mark.fault("a name resolves to another address after its check")
async def test_name_is_looked_up_and_checked_again_at_every_redirect(server: str) -> None:
    port, names = server.rpartition(":")[2], Names(rebound=[["127.0.0.1"], ["127.0.0.2"]])
    url = f"http://rebound.test:{port}/redirect?to=/host"
    with pytest.raises(ValueError, match=r"rebound\.test resolves to an address that is not public"):
        await fetch(url, is_allowed=loopback_1, resolve=names)
    assert names.asked == ["rebound.test"] * 2


@pytest.mark.parametrize("private_urls", [False, True])
async def test_proxy_gets_the_checked_address_and_without_the_rule_the_name(
    monkeypatch: pytest.MonkeyPatch, private_urls: bool
) -> None:
    heads = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    proxy = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        names = Names(public=[["93.184.216.34"]])
        assert await fetch("http://public.test/a", private_urls=private_urls, resolve=names) == b"ok"
    target = "public.test" if private_urls else "93.184.216.34"
    assert heads[0].startswith(f"get http://{target}/a http/1.1\r\n")
    assert "host: public.test\r\n" in heads[0]


async def test_name_with_one_forbidden_address_is_refused(server: str) -> None:
    names = Names(mixed=[["127.0.0.1", "127.0.0.2"]])
    with pytest.raises(ValueError, match=r"mixed\.test resolves to an address that is not public"):
        await fetch(f"http://mixed.test:{server.rpartition(':')[2]}/host", is_allowed=loopback_1, resolve=names)


async def test_check_looks_names_up() -> None:
    names = Names(public=[["8.8.8.8"]], mixed=[["8.8.8.8", "10.0.0.1"]], zone=[["fe80::1%eth0"]])
    await check_resolved_url("https://public.test/a", resolve=names)
    for name in ("mixed", "zone"):
        with pytest.raises(ValueError, match=rf"{name}\.test resolves to an address that is not public"):
            await check_resolved_url(f"https://{name}.test/a", resolve=names)
    await check_resolved_url("https://mixed.test/a", private_urls=True, resolve=names)


async def test_next_address_is_used_when_one_refuses(server: str) -> None:
    port, names = server.rpartition(":")[2], Names(two=[["127.0.0.3", "127.0.0.1"]])
    url = f"http://two.test:{port}/host"
    content = await fetch(url, is_allowed=lambda address: address.is_loopback, resolve=names)
    assert content == f"http two.test:{port}".encode()


async def test_tls_is_verified_for_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("secure.test").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    names: list[str | None] = []
    tls.sni_callback = lambda connection, name, context: names.append(name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if head.startswith("get /away"):
            writer.write(f"HTTP/1.1 302 Found\r\nlocation: {server}/host\r\ncontent-length: 0\r\n\r\n".encode())
        else:
            host = head.partition("host: ")[2].partition("\r\n")[0]
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(host)}\r\n\r\n{host}".encode())
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    resolve = Names(secure=[["127.0.0.1"]], other=[["127.0.0.1"]])
    async with listener:
        content = await fetch(f"https://secure.test:{port}/", is_allowed=loopback_1, resolve=resolve)
        assert (content.decode(), names) == (f"secure.test:{port}", ["secure.test"])
        with pytest.raises(ValueError, match="redirects from https to http"):
            await fetch(f"https://secure.test:{port}/away", is_allowed=loopback_1, resolve=resolve)
        with pytest.raises(ValueError, match=r"(?i)certificate"):
            await fetch(f"https://other.test:{port}/", is_allowed=loopback_1, resolve=resolve)
