"""A real browser, whose page is of another origin: it may call where the setting says so, and reads as the text comes."""

import os
import queue
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.support.chat_flow import write_full_chat_flow
from tests.support.clients import NODE, node_for
from tests.support.flows import SESSION
from tests.support.model_server import ModelServer
from tests.support.serving import ROOT, in_thread, serving

CLIENTS = ROOT / "tests" / "clients"
OPENAI = NODE / "node_modules" / "openai"
WORDS = 4
TIMEOUT_S = 60
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
).split()


@contextmanager
def page(step: Any, reports: "queue.Queue[Any]") -> Iterator[str]:
    """Serve the page; yield its origin."""

    async def show(request: Request) -> Response:
        return FileResponse(CLIENTS / "page.html")

    async def on_step(request: Request) -> Response:
        step()
        return Response()

    async def on_report(request: Request) -> Response:
        reports.put(await request.json())
        return Response()

    routes = [
        Route("/", show),
        Route("/step", on_step, methods=["POST"]),
        Route("/report", on_report, methods=["POST"]),
        Mount("/openai", StaticFiles(directory=OPENAI)),
    ]
    with in_thread(Starlette(routes=routes)) as url:
        yield url


@contextmanager
def browsing(url: str, profile: Path) -> Iterator[None]:
    """Show `url` in a browser of its own until the block ends."""
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_calls_where_its_origin_is_allowed(tmp_path: Path, model_server: ModelServer, allowed: bool) -> None:
    node_for("openai")
    key, reports = str(uuid.uuid4()), queue.Queue[Any]()
    flow = write_full_chat_flow(tmp_path / "flow", model_server.url)
    with page(lambda: model_server.step(key), reports) as origin:
        settings = {"FLOWPOD_TOKENS": "secret", "FLOWPOD_CORS_ORIGINS": origin if allowed else "http://other.example"}
        with serving(flow, tmp_path, **settings) as served:
            query = {"url": served.url, "token": "secret", "session": SESSION, "question": f"steps:{WORDS}:{key} hi"}
            with browsing(f"{origin}/?{urlencode(query)}", tmp_path / "profile"):
                results = reports.get(timeout=TIMEOUT_S)
    if not allowed:
        assert {name: result["raised"].split(":")[0] for name, result in results.items()} == {
            "streamed": "TypeError",
            "refused": "TypeError",
            "client": "Error",
        }
        return
    assert results["streamed"].pop("id")
    assert results == {
        "streamed": {"session": SESSION, "status": 200, "words": WORDS, "done": True},
        "refused": {"status": 401, "message": "the token is not valid"},
        "client": {"text": "You said: echo hi", "models": ["flow", "default"]},
    }
