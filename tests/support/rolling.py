"""Instances behind a real nginx that are replaced one after another while sessions chat through it, as a rollout does."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.serving import Served, start_server, wait_until_ready

WORDS = 10
ANSWER = "".join(f"w{number} " for number in range(WORDS))
MODEL = f"words:{WORDS}:0.03"
DRAIN_DELAY_S = 3.0
LEAVES_UPSTREAM_AFTER_S = 2.0
START_TIMEOUT_S = 10

# Connections to instances are kept, and nothing is ever tried twice: a failure is seen by the client.
_CONF = """
user {user};
worker_processes 1;
error_log {folder}/error.log warn;
pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream instances {{
        {servers}
        keepalive 32;
    }}
    server {{
        listen unix:{folder}/socket;
        location / {{
            proxy_pass http://instances;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
            proxy_next_upstream off;
        }}
    }}
}}
"""


class Nginx:
    """The proxy, listening on the Unix socket `socket`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.socket = folder / "socket"
        self._command = [
            shutil.which("nginx") or "nginx",
            "-p",
            str(folder),
            "-c",
            str(folder / "conf"),
            "-e",
            "error.log",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def spread_over(self, instances: list[Served]) -> None:
        """Give new requests to `instances` only; those that run are finished where they are."""
        servers = " ".join(f"server {instance.url.removeprefix('http://')};" for instance in instances)
        user = "root" if os.getuid() == 0 else "nobody"
        (self._folder / "conf").write_text(_CONF.format(folder=self._folder, servers=servers, user=user))
        if self._process is None:
            self._process = subprocess.Popen([*self._command, "-g", "daemon off;"])
            deadline = time.monotonic() + START_TIMEOUT_S
            while not self.socket.exists():
                assert time.monotonic() < deadline, (self._folder / "error.log").read_text()
                time.sleep(0.02)
        else:
            subprocess.run([*self._command, "-s", "reload"], check=True)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)


@dataclass
class Rollout:
    """What was seen: the questions of each session that were answered, in order, and every failure."""

    answered: dict[str, list[str]]
    failures: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    seconds: float = 0

    @property
    def turns(self) -> int:
        return sum(len(questions) for questions in self.answered.values())


async def rollout(flow: Path, folder: Path, history: str, *, instances: int, sessions: int, rounds: int) -> Rollout:
    """Replace every instance, `rounds` times, while `sessions` sessions chat without a pause."""
    seen = Rollout({f"{number:032}": [] for number in range(sessions)})
    over = asyncio.Event()
    with ExitStack() as stack:
        nginx = stack.enter_context(_running_nginx(folder / "nginx"))
        running = [await asyncio.to_thread(_start, stack, flow, folder, history) for _ in range(instances)]
        await asyncio.to_thread(nginx.spread_over, running)
        begun = time.monotonic()
        chats = [asyncio.create_task(_chat(nginx, session, seen, over)) for session in seen.answered]
        try:
            for _ in range(rounds * instances):
                new = await asyncio.to_thread(_start, stack, flow, folder, history)
                old, running = running[0], [*running[1:], new]
                await asyncio.to_thread(nginx.spread_over, [old, *running])
                old.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(LEAVES_UPSTREAM_AFTER_S)
                await asyncio.to_thread(nginx.spread_over, running)
                seen.exits.append(await asyncio.to_thread(old.process.wait, 60))
        finally:
            over.set()
            await asyncio.gather(*chats)
        seen.seconds = time.monotonic() - begun
    return seen


def _start(stack: ExitStack, flow: Path, folder: Path, history: str) -> Served:
    place = folder / f"instance-{len(list(folder.glob('instance-*')))}"
    place.mkdir()
    settings = {"FLOWPOD_HISTORY": history, "FLOWPOD_DRAIN_DELAY_S": str(DRAIN_DELAY_S), "FLOWPOD_AUTH": "off"}
    served = stack.enter_context(start_server(flow, place, **settings))
    wait_until_ready(served)
    return served


@contextmanager
def _running_nginx(folder: Path) -> Iterator[Nginx]:
    folder.mkdir()
    nginx = Nginx(folder)
    try:
        yield nginx
    finally:
        nginx.stop()


async def _chat(nginx: Nginx, session: str, seen: Rollout, over: asyncio.Event) -> None:
    """Ask one question after another, each on a connection of its own: nginx closes idle ones when it is reloaded."""
    headers = {"Chat-Session-Id": session, "Connection": "close"}
    transport = httpx.AsyncHTTPTransport(uds=str(nginx.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://flowpod", headers=headers, timeout=30) as client:
        while not over.is_set():
            question = f"{session[-4:]}/{len(seen.answered[session])}"
            try:
                answer = await _ask(client, question)
            except httpx.HTTPError as error:
                seen.failures.append(f"{question}: {type(error).__name__}: {error}")
                return
            if answer != ANSWER:
                seen.failures.append(f"{question}: {answer}")
                return
            seen.answered[session].append(question)


async def _ask(client: httpx.AsyncClient, question: str) -> str:
    """Return a streamed answer, or what came instead of one."""
    body = {"model": "any", "stream": True, "messages": [{"role": "user", "content": question}]}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            return f"{response.status_code} {(await response.aread()).decode()}"
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: ")]
    if lines[-1:] != ["[DONE]"]:
        return f"cut off after {lines[-1:]}"
    chunks = [json.loads(line) for line in lines[:-1]]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk.get("choices"))
