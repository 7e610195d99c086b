"""How a model is reached: through a proxy, past it, over TLS, and with what an address says."""

import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from flowpod.errors import NodeError
from tests.models.test_model_apis import answer
from tests.support.model_server import ModelServer


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextmanager
def relaying(target: str, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Pass connections on to the host and port `target`; yield the port and the first bytes of each connection."""
    host, port = target.split(":")
    heads: list[bytes] = []

    def serve(accepted: socket.socket) -> None:
        try:
            client = tls.wrap_socket(accepted, server_side=True) if tls else accepted
        except ssl.SSLError:
            accepted.close()
            return  # a client that does not trust us
        with client, socket.create_connection((host, int(port))) as server:
            head = client.recv(65536)
            heads.append(head)
            server.sendall(head)
            threading.Thread(target=copy, args=(client, server), daemon=True).start()
            copy(server, client)

    def copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass  # the other side has left

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], heads
        listener.shutdown(socket.SHUT_RDWR)


def place_of(url: str) -> str:
    return url.removeprefix("http://").removesuffix("/v1")


async def test_a_proxy_of_the_environment_is_used(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with relaying(place_of(model_server.url)) as (port, heads):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        _, result = await answer(model_server.url, "echo", True)
        assert result.value == "You said: hi"
        assert heads[0].startswith(f"POST {model_server.url}/chat/completions HTTP/1.1".encode())
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        await answer(model_server.url, "echo", True)
        assert len(heads) == 1


async def test_a_certificate_is_verified_and_the_environment_names_its_authority(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with relaying(place_of(model_server.url), tls) as (port, _):
        url = f"https://127.0.0.1:{port}/v1"
        with pytest.raises(NodeError, match="certificate verify failed") as caught:
            await answer(url, "echo", True)
        assert caught.value.code == "model_unreachable"
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        _, result = await answer(url, "echo", True)
    assert result.value == "You said: hi"


async def test_credentials_in_an_address_are_sent_as_a_header(model_server: ModelServer) -> None:
    await answer(model_server.url.replace("http://", "http://some%40one:pass-word@"), "echo", True)
    assert model_server.calls[-1].headers["authorization"] == f"Basic {b64encode(b'some@one:pass-word').decode()}"
