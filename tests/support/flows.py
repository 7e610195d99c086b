"""Small flows for tests, and ways to run them without a socket."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx

from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunStarted, RunTerminated
from flowpod.engine.package import Package, build_package
from flowpod.engine.request import RunRequest
from flowpod.errors import ErrorInfo, Problem
from flowpod.service import FlowService
from flowpod.serving.app import create_app, create_service
from flowpod.settings import Settings
from flowpod.storage.dialects import dialect_of
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.tracing import Tracing

SESSION = "s" * 32


def write_flow(folder: Path, dag: str, files: Mapping[str, str] | None = None) -> Path:
    """Write a flow's files, their common indentation taken off, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"flow.dag.yaml": dag, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"))
    return folder


def write_chat_flow(folder: Path, base_url: str, model: str = "echo", connection: str = "", more: str = "") -> Path:
    """Write a chat flow of one LLM node; `connection` is more keys of its connection, `more` a line of its file."""
    dag = f"""
    {more}
    inputs:
      question: {{type: string, is_chat_input: true}}
      chat_history: {{type: list, default: [], is_chat_history: true}}
    outputs:
      answer: {{type: string, reference: "${{reply.output}}", is_chat_output: true}}
    nodes:
    - name: reply
      type: llm
      source: {{type: code, path: reply.jinja2}}
      connection: model
      inputs:
        model: "{model}"
        question: ${{inputs.question}}
        chat_history: ${{inputs.chat_history}}
        instructions: ${{sys.instructions}}
    """
    prompt = """
    # system:
    Be brief. {{ instructions }}
    {% for turn in chat_history %}
    # user:
    {{ turn.inputs.question }}
    # assistant:
    {{ turn.outputs.answer }}
    {% endfor %}
    # user:
    {{ question }}
    """
    return write_flow(
        folder,
        dag,
        {
            "reply.jinja2": prompt,
            "connections.yaml": f"model: {{type: open_ai, base_url: '{base_url}', max_retries: 0{connection}}}\n",
        },
    )


def stubborn_flow(folder: Path) -> Path:
    """Write a flow that begins a task which refuses to be cancelled; with `wait` its node waits for it."""
    dag = """
    inputs:
      wait: {type: bool}
    outputs:
      out: {type: string, reference: "${stubborn.output}"}
    nodes:
    - {name: stubborn, type: python, source: {path: stubborn.py}, inputs: {wait: "${inputs.wait}"}}
    """
    code = """
    import asyncio

    tasks = []

    async def stay():
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    async def invoke(wait: bool):
        if wait:
            await stay()
        tasks.append(asyncio.create_task(stay()))
        return "done"
    """
    return write_flow(folder, dag, {"stubborn.py": code})


def build(
    folder: Path, environ: Mapping[str, str] | None = None, tracing: Tracing | None = None, private_urls: bool = False
) -> Package:
    """Return the package in `folder`, which must have no problems."""
    package, problems = build_package(
        folder, environ or {}, tracing or Tracing(None), threads=8, private_urls=private_urls
    )
    assert package is not None, "\n".join(map(str, problems))
    return package


def problems_of(folder: Path, environ: Mapping[str, str] | None = None) -> list[Problem]:
    return build_package(folder, environ or {}, Tracing(None), threads=1)[1]


@asynccontextmanager
async def service_of(
    folder: Path,
    *,
    tracing: Tracing | None = None,
    data: Path | None = None,
    database: str | None = None,
    **settings: Any,
) -> AsyncIterator[FlowService]:
    """Open a service for the flow in `folder`; it keeps a history in `data`, or in `database`, if there is one."""
    tracing = tracing or Tracing(SpanProvider())
    database = database if data is None else f"sqlite:///{data / 'chat_history.db'}"
    history = None if database is None else dialect_of(database)
    service = create_service(
        build(folder, tracing=tracing, private_urls=Settings(**settings).allow_private_urls == "on"),
        Settings(**settings),
        "test",
        history,
        tracing,
    )
    await service.open()
    try:
        yield service
    finally:
        await service.finish(grace_s=0)
        await service.close()


@asynccontextmanager
async def client_of(
    folder: Path,
    *,
    tokens: tuple[str, ...] = (),
    data: Path | None = None,
    database: str | None = None,
    tracing: Tracing | None = None,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client that calls the application in this process: bytes and order are real, timing is not."""
    async with service_of(folder, data=data, database=database, tracing=tracing, **settings) as service:
        app = create_app(service, Settings(**settings), tokens)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client


async def post(
    folder: Path, path: str, json: Any = None, *, content: Any = None, headers: Any = None, **options: Any
) -> httpx.Response:
    """Send one request to the flow in `folder`; `options` are those of `client_of`."""
    async with client_of(folder, **options) as client:
        return await client.post(path, json=json, content=content, headers=headers)


async def run_flow(folder: Path, inputs: Mapping[str, Any], *, streaming: bool = True, **options: Any) -> list[Event]:
    """Run the flow in `folder` once and return all its events; `options` are those of `service_of`."""
    async with service_of(folder, **options) as service:
        return await events_of(service, inputs, streaming=streaming)


async def events_of(service: FlowService, inputs: Mapping[str, Any], **request: Any) -> list[Event]:
    """Run the flow once and return all its events."""
    run = await service.start(RunRequest(inputs=inputs, **{"session_id": SESSION, **request}))
    return [event async for batch in run.events.batches() for event in batch]


def run_error(events: Sequence[Event]) -> ErrorInfo:
    """Return the error that the run ended with."""
    end = events[-1]
    assert isinstance(end, RunTerminated)
    assert end.error is not None
    return end.error


def event_lines(events: list[Event]) -> list[str]:
    """Return events as short lines, for comparing a run's whole course."""
    return [_line(event) for event in events]


def _line(event: Event) -> str:
    match event:
        case RunStarted():
            return "started"
        case NodeUpdated():
            return f"{event.node} {event.status}"
        case RunOutput():
            stream = "stream" if event.is_stream else "whole"
            return f"{event.output} {stream} {event.delta!r} {event.status}"
        case RunTerminated():
            return f"terminated {event.status}"
