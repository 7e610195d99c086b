"""Streams on a real socket, and through a real nginx: nothing is held back.

The stand-in model gives each word only when the test has read the one before, so that a stream which is held back
anywhere on its way stands still, and the reading times out.
"""

import getpass
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.serving import START_TIMEOUT_S, serving

WORDS = 5
QUESTION = {"question": "hi"}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
PROTOCOLS = [("/", QUESTION), ("/run", {"inputs": QUESTION}), ("/score", QUESTION), ("/v1/chat/completions", CHAT)]
READ_TIMEOUT_S = 20
NGINX = """
daemon off;
user {user};
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen unix:{folder}/socket;
        location / {{ proxy_pass {url}; }}
    }}
}}
"""


@contextmanager
def nginx(url: str) -> Iterator[httpx.HTTPTransport]:
    """Run nginx, with its default settings, in front of `url`; yield the way to it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, url=url, user=getpass.getuser()))
        process = subprocess.Popen(["nginx", "-p", name, "-c", "nginx.conf", "-e", f"{name}/error.log"])
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (folder / "socket").exists():
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline, "nginx did not start"
            time.sleep(0.01)
        try:
            with httpx.HTTPTransport(uds=str(folder / "socket")) as transport:
                yield transport
        finally:
            process.terminate()
            process.wait(10)


def read_word_by_word(client: httpx.Client, server: ModelServer, key: str, path: str, body: dict[str, Any]) -> str:
    """Read an answer, letting each word go when the one before has been read."""
    text, word = "", 0
    server.step(key)
    with client.stream("POST", path, json=body, headers={"Accept": "text/event-stream"}) as response:
        for piece in response.iter_text():
            text += piece
            if f"w{word} " in text and word < WORDS:
                word += 1
                server.step(key)
    assert word == WORDS
    return text


@pytest.mark.needs("nginx")
@pytest.mark.parametrize(("path", "body"), PROTOCOLS)
def test_nginx_passes_each_token_on(tmp_path: Path, model_server: ModelServer, path: str, body: dict[str, Any]) -> None:
    key = str(uuid.uuid4())
    flow = write_chat_flow(tmp_path / "flow", model_server.url, f"steps:{WORDS}:{key}")
    with (
        serving(flow, tmp_path) as served,
        nginx(served.url) as transport,
        httpx.Client(transport=transport, base_url="http://nginx", timeout=READ_TIMEOUT_S) as client,
    ):
        read_word_by_word(client, model_server, key, path, body)


def test_an_openai_stream_begins_before_the_model_and_stays_alive(tmp_path: Path, model_server: ModelServer) -> None:
    key = str(uuid.uuid4())
    flow = write_chat_flow(tmp_path / "flow", model_server.url, f"steps:1:{key}")
    with (
        serving(flow, tmp_path, FLOWPOD_HEARTBEAT_S="0.1") as served,
        httpx.Client(base_url=served.url, timeout=READ_TIMEOUT_S) as client,
        client.stream("POST", "/v1/chat/completions", json=CHAT) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in response.headers
        text = ""
        pieces = response.iter_text()
        while text.count(": ping\n\n") < 2:
            text += next(pieces)
        assert text.startswith('data: {"id":"chatcmpl-')
        assert text.count("data: ") == 1
        model_server.step(key)
        text += "".join(pieces)
    assert text.endswith("data: [DONE]\n\n")
    assert "w0 " in text
    assert "\r" not in text
