"""Flows and answers of promptflow's `/score`."""

import json
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from flowpod.service import FlowService
from flowpod.serving.app import create_app
from flowpod.settings import Settings
from tests.support.flows import write_flow

STREAM = {"Accept": "text/event-stream"}
EITHER = {"Accept": "application/json, text/event-stream"}
TOOL = "from promptflow.core import tool\n\n@tool\n"
ECHO = """
inputs:
  text: {type: string}
outputs:
  out: {type: string, reference: "${echo.output}"}
nodes:
- {name: echo, type: python, source: {path: echo.py}, inputs: {text: "${inputs.text}"}}
"""


def echo_flow(folder: Path, code: str = "def echo(text: str) -> str:\n    return text\n") -> Path:
    return write_flow(folder, ECHO, {"echo.py": TOOL + code})


def frames(response: httpx.Response) -> list[Any]:
    """Return what the frames of a data-only stream hold."""
    *parts, end = response.text.split("\n\n")
    assert end == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def error_of(response: httpx.Response) -> dict[str, str]:
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message"]
    return dict(body["error"])


def app_of(service: FlowService) -> ASGIApp:
    return create_app(service, Settings(), ())


def caller_of(service: FlowService) -> httpx.AsyncClient:
    """Return a client of a service whose end the test decides itself."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app_of(service)), base_url="http://localhost")
