"""Connections of hostile clients: endless headers, silence, responses that nobody reads."""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import httpx
import pytest

from tests.support.flows import write_chat_flow, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import PROGRAM, Served, serving
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
FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 100; exec "$0" "$@"', *PROGRAM)
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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, model_server: ModelServer) -> Iterator[Served]:
    """A service with a token, which its attackers do not have."""
    folder = tmp_path_factory.mktemp("guarded")
    with serving(write_chat_flow(folder / "flow", model_server.url), folder, FLOWPOD_TOKENS="secret") as served:
        yield served


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, model_server: ModelServer) -> Iterator[Served]:
    """A service without a token whose time limits are short."""
    folder = tmp_path_factory.mktemp("impatient")
    with serving(write_chat_flow(folder / "flow", model_server.url), folder, **QUICK) as served:
        yield served


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service whose runs stream without end and faster than anybody reads."""
    folder = tmp_path_factory.mktemp("talking")
    flow = write_flow(folder / "flow", ENDLESS, {"talk.py": TALK})
    with serving(flow, folder, FLOWPOD_WRITE_TIMEOUT_S="0.5") as served:
        yield served


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
def test_headers_have_a_limit(
    guarded: Served, attack: Callable[[], Iterator[bytes]], figures: dict[str, object]
) -> None:
    chunks = list(attack())
    memory, cpu = peak_mib(guarded), cpu_s(guarded)
    answer = exchange(guarded, *chunks)
    memory, cpu = peak_mib(guarded) - memory, cpu_s(guarded) - cpu
    figures["more MiB"], figures["CPU s"] = round(memory, 1), round(cpu, 2)
    # Trailers come after the application has seen the request, which lacks a token.
    last = answer[answer.rindex(b"HTTP/1.1 ") :]
    assert status_of(last) == (401 if attack is trailers else 431)
    assert (b'"code":"headers_too_large"' in last) == (attack is not trailers)
    assert memory < 10
    assert cpu < 0.5
    assert httpx.get(f"{guarded.url}/healthz").status_code == 200


def test_headers_below_the_limit_are_served(guarded: Served) -> None:
    full = START + b"a: " + b"x" * (64 * 1024 - len(START) - 7) + b"\r\n\r\n"
    assert len(full) == 64 * 1024
    last = START + b"Connection: close\r\n\r\n"
    long = (b"GET /healthz?" + b"x" * 8000 + START.removeprefix(b"GET /healthz") + b"Connection: close\r\n\r\n",)
    assert exchange(guarded, full, full, full, last).count(b" 200 OK\r\n") == 4
    assert exchange(guarded, (START + b"\r\n") * 5000, last).count(b" 200 OK\r\n") == 5001
    assert status_of(exchange(guarded, full.replace(b"x\r\n", b"xx\r\n"))) == 431
    assert status_of(exchange(guarded, *long)) == 200


def test_a_request_to_upgrade_is_answered_without_it(impatient: Served) -> None:
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n\r\n"
    answer = exchange(impatient, (POST + h2c + BODY) * 2, POST + b"Connection: close\r\n\r\n" + BODY)
    assert answer.count(b"You said: hi") == 3
    many = (START + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n") * 2000  # more than Python can recurse
    assert exchange(impatient, many, START + b"Connection: close\r\n\r\n").count(b" 200 OK\r\n") == 2001


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
        (START + b"\r\nGET /", 200),
    ],
)
def test_a_client_that_stops_is_disconnected(impatient: Served, sent: bytes, status: int | None) -> None:
    answer = exchange(impatient, sent)
    assert (status_of(answer) if answer else None) == status
    assert httpx.post(impatient.url, json=QUESTION).status_code == 200
    assert "Traceback" not in impatient.log


def test_a_slow_body_and_an_idle_connection_are_no_fault(tmp_path: Path, chat_flow: Path) -> None:
    limits = {"FLOWPOD_HEADER_TIMEOUT_S": "1", "FLOWPOD_BODY_TIMEOUT_S": "3"}
    with serving(chat_flow, tmp_path, **limits) as served, connect(served) as client:
        client.sendall(START + b"\r\n")
        read_until(client, b'{"status":"ok"}')
        wait_for_the_header_timeout(served)
        client.sendall(POST + b"\r\n")
        for byte in BODY[:4]:
            wait_for_the_header_timeout(served)
            client.sendall(bytes([byte]))
        client.sendall(BODY[4:])
        read_until(client, b"You said: hi")


def wait_for_the_header_timeout(served: Served) -> None:
    with connect(served) as silent:
        assert silent.recv(1) == b""


def read_until(client: socket.socket, end: bytes) -> None:
    answer = b""
    while end not in answer:
        chunk = client.recv(65536)
        assert chunk, answer
        answer += chunk


@pytest.mark.fault("more connections than file descriptors")
def test_silent_connections_leave_room_for_others(tmp_path: Path, chat_flow: Path, figures: dict[str, object]) -> None:
    with serving(chat_flow, tmp_path, program=FEW_DESCRIPTORS) as served, contextlib.ExitStack() as stack:
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
    flow = write_flow(tmp_path / "flow", ENDLESS, {"talk.py": code})
    with serving(flow, tmp_path, program=FEW_DESCRIPTORS) as served:
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
    talking: Served, path: str, body: object, pipelined: int, figures: dict[str, object]
) -> None:
    before = len(talking.log)
    with connect(talking, SO_RCVBUF=4096) as client:
        client.sendall(post(path, body) * pipelined)
        wait_until(lambda: re.search(r"run \S+ Canceled", talking.log[before:]), "the run to be cancelled")
    assert talking.log[before:].count("has not read its response") == 1
    assert "Traceback" not in talking.log[before:]
    figures["peak MiB"] = round(peak_mib(talking))
    assert peak_mib(talking) < 500  # a stream that repeats its whole text once took 2,300


@pytest.mark.fault("a client that does not read")
def test_a_follower_that_does_not_read_leaves_the_background_run_alone(talking: Served) -> None:
    before = len(talking.log)
    run = httpx.post(f"{talking.url}/run", json={"inputs": QUESTION, "background": True}).json()["run_id"]
    with connect(talking, SO_RCVBUF=4096) as client:
        client.sendall(b"GET /runs/%b/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % run.encode())
        wait_until(lambda: "has not read its response" in talking.log[before:], "the follower to be disconnected")
    assert httpx.get(f"{talking.url}/runs/{run}").json()["status"] == "Running"
    httpx.post(f"{talking.url}/runs/{run}/cancel").raise_for_status()


def test_a_client_that_reads_slowly_keeps_its_run(talking: Served) -> None:
    with connect(talking, SO_RCVBUF=4096) as slow, connect(talking, SO_RCVBUF=4096) as silent:
        before = len(talking.log)
        for client in (slow, silent):
            client.sendall(post("/", QUESTION))
        while "Canceled" not in talking.log[before:]:  # the run of the client that reads nothing
            assert slow.recv(512)
            time.sleep(0.02)
        assert talking.log[before:].count("Canceled") == 1
        assert slow.recv(512)


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
def test_a_request_has_one_valid_host(guarded: Served, impatient: Served, hosts: bytes, status: int) -> None:
    for served in (guarded, impatient):
        answer = exchange(served, b"GET /healthz HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert status_of(answer) == status
        assert status_of(exchange(served, b"GET /healthz HTTP/1.0\r\n\r\n")) == 200
