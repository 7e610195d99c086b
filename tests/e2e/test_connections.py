"""Connections of hostile clients: endless headers, silence, responses that nobody reads."""

import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path

import httpx
import pytest

from tests.support.flows import write_flow
from tests.support.serving import Served, serving
from tests.support.waiting import wait_until

MIB = 1024 * 1024
START = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
BODY = b'{"question":"hi"}'
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % len(BODY)
QUICK = {"FLOWPOD_HEADER_TIMEOUT_S": "0.5", "FLOWPOD_BODY_TIMEOUT_S": "0.5", "FLOWPOD_WRITE_TIMEOUT_S": "0.5"}
ENDLESS = """
inputs:
  question: {type: string, is_chat_input: true}
outputs:
  answer: {type: string, reference: "${talk.output}", is_chat_output: true}
nodes:
- {name: talk, type: python, source: {path: talk.py}, inputs: {question: "${inputs.question}"}}
"""
TALK = """
import asyncio

async def invoke(question: str):
    while True:
        yield "more " * 4000
        await asyncio.sleep(0.01)
"""
QUESTION = {"question": "hi"}
CHAT = [{"role": "user", "content": "hi"}]
PROTOCOLS = [
    ("/", QUESTION),
    ("/run", {"inputs": QUESTION}),
    ("/score", QUESTION),
    ("/v1/chat/completions", {"messages": CHAT, "stream": True}),
    ("/v1/responses", {"input": "hi", "stream": True}),
    ("/api/v1/apps/flow/completion", {"input": {"prompt": "hi"}}),
    ("/api/v1/services/aigc/text-generation/generation", {"model": "flow", "input": {"messages": CHAT}}),
]


def connect(served: Served, **options: int) -> socket.socket:
    """Return a connection; `options` are socket options by the end of their name."""
    client = socket.socket()
    for name, value in options.items():
        client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    client.settimeout(20)
    host, port = served.url.removeprefix("http://").split(":")
    client.connect((host, int(port)))
    return client


def received(client: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    chunks = []
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks)


def exchange(served: Served, *chunks: bytes) -> bytes:
    """Send as much as the server takes and return its whole answer."""
    with connect(served) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for chunk in chunks:
                client.sendall(chunk)
        return received(client)


def post(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nX-DashScope-SSE: enable\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def cpu_s(served: Served) -> float:
    fields = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(served: Served) -> float:
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def short_headers() -> Iterator[bytes]:
    yield START
    for _ in range(64):
        yield b"a: bcdef\r\n" * (MIB // 10)


def one_header() -> Iterator[bytes]:
    yield START + b"a: "
    yield from repeat(b"x" * MIB, 30)


def upgrade() -> Iterator[bytes]:
    yield START + b"Connection: upgrade\r\nUpgrade: websocket\r\na: "
    yield from repeat(b"x" * MIB, 30)


def request_line() -> Iterator[bytes]:
    yield b"GET /?"
    yield from repeat(b"x" * MIB, 30)


def trailers() -> Iterator[bytes]:
    yield b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    yield from repeat(b"a: bcdef\r\n" * (MIB // 10), 30)


def pipelined() -> Iterator[bytes]:
    yield START + b"\r\n"
    yield from one_header()


@pytest.mark.fault("request headers without end")
@pytest.mark.parametrize("attack", [short_headers, one_header, upgrade, request_line, trailers, pipelined])
@pytest.mark.parametrize("tokens", ["", "secret"])
def test_headers_have_a_limit(
    tmp_path: Path, chat_flow: Path, attack: object, tokens: str, figures: dict[str, object]
) -> None:
    assert callable(attack)
    with serving(chat_flow, tmp_path, FLOWPOD_TOKENS=tokens) as served:
        memory, cpu = peak_mib(served), cpu_s(served)
        answer = exchange(served, *attack())
        figures["MiB more"], figures["CPU s"] = round(peak_mib(served) - memory, 1), round(cpu_s(served) - cpu, 2)
        assert httpx.get(f"{served.url}/healthz").status_code == 200
    last = answer[answer.rindex(b"HTTP/1.1 ") :]
    if attack is not trailers or not tokens:
        assert status_of(last) == 431
        assert b'"code":"headers_too_large"' in last
    assert float(str(figures["MiB more"])) < 10
    assert float(str(figures["CPU s"])) < 0.5


def test_headers_below_the_limit_are_served(tmp_path: Path, chat_flow: Path) -> None:
    full = START + b"a: " + b"x" * (64 * 1024 - len(START) - 7) + b"\r\n\r\n"
    assert len(full) == 64 * 1024
    last = START + b"Connection: close\r\n\r\n"
    with serving(chat_flow, tmp_path) as served:
        assert exchange(served, full, full, full, last).count(b" 200 OK\r\n") == 4
        assert exchange(served, (START + b"\r\n") * 5000, last).count(b" 200 OK\r\n") == 5001
        assert status_of(exchange(served, full.replace(b"x\r\n", b"xx\r\n"))) == 431
        assert status_of(exchange(served, b"GET /healthz?", b"x" * 8000, b" HTTP/1.1\r\nHost: localhost\r\n\r\n")) == 200


def test_a_request_to_upgrade_is_answered_without_it(tmp_path: Path, chat_flow: Path) -> None:
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n\r\n"
    with serving(chat_flow, tmp_path) as served:
        answer = exchange(served, (POST + h2c + BODY) * 2, POST + b"Connection: close\r\n\r\n" + BODY)
        assert answer.count(b"You said: hi") == 3
        many = (START + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n") * 2000  # more than Python can recurse
        assert exchange(served, many, START + b"Connection: close\r\n\r\n").count(b" 200 OK\r\n") == 2001


@pytest.mark.fault("a client that stops in the middle of a request")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"\r\n", 408),
        (b"GET / HT", 408),
        (START, 408),
        (POST + b"\r\n", 408),
        (POST + b"\r\n{", 408),
        (POST + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n{", 408),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{", 408),
        (b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", 404),
        (START + b"\r\nGET", 200),
    ],
)
def test_a_client_that_stops_is_disconnected(tmp_path: Path, chat_flow: Path, sent: bytes, status: int | None) -> None:
    with serving(chat_flow, tmp_path, **QUICK) as served:
        answer = exchange(served, sent)
        assert (status_of(answer) if answer else None) == status
        assert httpx.post(served.url, json=QUESTION).status_code == 200
        assert "Traceback" not in served.log


def test_a_slow_body_and_an_idle_connection_are_no_fault(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path, FLOWPOD_HEADER_TIMEOUT_S="1", FLOWPOD_BODY_TIMEOUT_S="2") as served:
        with connect(served) as client, connect(served) as silent:
            client.sendall(START + b"\r\n")
            assert b" 200 OK" in client.recv(65536)
            assert silent.recv(1) == b""  # closed after its time, which the idle connection has lived through
            client.sendall(POST + b"\r\n" + BODY[:5])
            for _ in range(2):
                with connect(served) as silent_too:
                    assert silent_too.recv(1) == b""
                client.sendall(BODY[5:6] if _ == 0 else BODY[6:])
            assert b"You said: hi" in client.recv(65536)


@pytest.mark.fault("more connections than file descriptors")
def test_silent_connections_leave_room_for_others(
    tmp_path: Path, chat_flow: Path, figures: dict[str, object]
) -> None:
    limited = ("sh", "-c", 'ulimit -n 100; exec "$0" "$@"', sys.executable, "-m", "flowpod")
    with serving(chat_flow, tmp_path, program=limited) as served, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(served)) for _ in range(200)]
        wait_until(lambda: "FLOWPOD_MAX_CONNECTIONS and ulimit -n" in served.log, "a log line")
        wait_until(lambda: answers(served), "an answer while the silent clients are connected")
        figures["silent connections"] = len(silent)


def answers(served: Served) -> bool:
    try:
        return httpx.post(served.url, json=QUESTION).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.fault("more connections than file descriptors")
def test_descriptors_that_run_out_are_logged(tmp_path: Path) -> None:
    code = """
    import asyncio

    async def invoke(question: str):
        files = []
        try:
            while True:
                files.append(open("/dev/null"))
        except OSError:
            await asyncio.sleep(2)
        for file in files:
            file.close()
        return "closed"
    """
    limited = ("sh", "-c", 'ulimit -n 100; exec "$0" "$@"', sys.executable, "-m", "flowpod")
    flow = write_flow(tmp_path / "flow", ENDLESS, {"talk.py": code})
    with serving(flow, tmp_path, program=limited) as served:
        assert httpx.post(served.url, json=QUESTION).json()["answer"] == "closed"
        assert "no file descriptor is left of 100" in served.log
        assert httpx.get(f"{served.url}/readyz").status_code == 200


def test_connections_beyond_the_limit_are_turned_away(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path, FLOWPOD_MAX_CONNECTIONS="3") as served, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(served))
        with connect(served) as fourth:
            answer = received(fourth)
        assert status_of(answer) == 503
        assert b"retry-after: 2\r\n" in answer
        wait_until(lambda: answers(served), "an answer")  # silent connections have to go when there is no room


@pytest.mark.fault("a client that does not read")
@pytest.mark.parametrize(("path", "body"), PROTOCOLS)
@pytest.mark.parametrize("pipelined", [1, 2])
def test_a_client_that_does_not_read_loses_its_run(
    tmp_path: Path, path: str, body: object, pipelined: int, figures: dict[str, object]
) -> None:
    flow = write_flow(tmp_path / "flow", ENDLESS, {"talk.py": TALK})
    with serving(flow, tmp_path, FLOWPOD_WRITE_TIMEOUT_S="0.5") as served, connect(served, SO_RCVBUF=4096) as client:
        client.sendall(post(path, body) * pipelined)
        wait_until(lambda: re.search(r"run \S+ Canceled", served.log) is not None, "the run to be cancelled")
        assert "has not read its response" in served.log
        figures["peak MiB"] = round(peak_mib(served))


@pytest.mark.fault("a client that does not read")
def test_a_follower_that_does_not_read_leaves_the_background_run_alone(tmp_path: Path) -> None:
    flow = write_flow(tmp_path / "flow", ENDLESS, {"talk.py": TALK})
    with serving(flow, tmp_path, FLOWPOD_WRITE_TIMEOUT_S="0.5") as served, connect(served, SO_RCVBUF=4096) as client:
        run = httpx.post(f"{served.url}/run", json={"inputs": QUESTION, "background": True}).json()["run_id"]
        client.sendall(b"GET /runs/%b/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % run.encode())
        wait_until(lambda: "has not read its response" in served.log, "the follower to be disconnected")
        assert httpx.get(f"{served.url}/runs/{run}").json()["status"] == "Running"
        httpx.post(f"{served.url}/runs/{run}/cancel").raise_for_status()


def test_a_client_that_reads_slowly_keeps_its_run(tmp_path: Path) -> None:
    flow = write_flow(tmp_path / "flow", ENDLESS, {"talk.py": TALK})
    with (
        serving(flow, tmp_path, FLOWPOD_WRITE_TIMEOUT_S="1.5") as served,
        connect(served, SO_RCVBUF=4096) as client,
        connect(served, SO_RCVBUF=4096) as other,
    ):
        other.sendall(post("/", QUESTION))
        client.sendall(post("/", QUESTION))
        for _ in count():
            assert client.recv(512)
            if "has not read its response" in served.log:
                break
        assert len(re.findall(r"run \S+ Canceled", served.log)) <= 1
        assert client.recv(512)


def test_a_response_that_nobody_reads_is_given_up(tmp_path: Path) -> None:
    code = 'def invoke(question: str):\n    return "x" * 8_000_000\n'
    flow = write_flow(tmp_path / "flow", ENDLESS, {"talk.py": code})
    with serving(flow, tmp_path, FLOWPOD_WRITE_TIMEOUT_S="0.5") as served, connect(served, SO_RCVBUF=4096) as client:
        client.sendall(POST + b"\r\n" + BODY)
        wait_until(lambda: "has not read its response" in served.log, "the client to be disconnected")
        assert len(received(client)) < 8_000_000


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (b"", 400),
        (b"Host: localhost\r\nHost: localhost\r\n", 400),
        (b"Host: local host\r\n", 400),
        (b"Host: a@localhost\r\n", 400),
        (b"Host: localhost\r\n", 200),
    ],
)
@pytest.mark.parametrize("tokens", ["", "secret"])
def test_a_request_has_one_valid_host(
    tmp_path: Path, chat_flow: Path, hosts: bytes, status: int, tokens: str
) -> None:
    with serving(chat_flow, tmp_path, FLOWPOD_TOKENS=tokens) as served:
        answer = exchange(served, b"GET /healthz HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert status_of(answer) == status
        assert status_of(exchange(served, b"GET /healthz HTTP/1.0\r\n\r\n")) == 200
