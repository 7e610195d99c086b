"""The composition root: from a package and settings to an ASGI application."""

import hashlib
import re
from asyncio import create_task
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp

from runtime.api.access import AccessLog
from runtime.api.chat import Chats
from runtime.api.complete import Complete
from runtime.api.cors import with_cors
from runtime.api.dashscope import Application
from runtime.api.dashscope_generation import PATHS as GENERATION
from runtime.api.dashscope_generation import Generation
from runtime.api.errors import on_bug, on_flowpod_error, on_http_exception
from runtime.api.health import Readyz, healthz
from runtime.api.metrics import MetricsPage
from runtime.api.middleware import RequestHeaders, TokenAuth
from runtime.api.openai import ChatCompletions, Models
from runtime.api.openapi import OpenApi
from runtime.api.promptflow import Feedback, Score, Swagger, health, version
from runtime.api.responses import Responses
from runtime.api.runs import Runs
from runtime.api.settings import ApiSettings
from runtime.api.simple import Simple
from runtime.api.sse import let_runs_end_streams
from runtime.api.traces import Traces
from runtime.errors import FlowpodError
from runtime.history.address import Address, history_address, sqlite_address
from runtime.history.database import Database
from runtime.history.service import HistoryService
from runtime.run.files import Files
from runtime.run.package import Package
from runtime.run.recorder import RecorderLimits
from runtime.run.run import Limits
from runtime.run.service import FlowService
from runtime.settings import Settings
from runtime.telemetry.event_loop import watch_event_loop
from runtime.telemetry.setup import Telemetry
from runtime.telemetry.tracing import Tracing

HISTORY_FILE = "chat_history.db"


def service_name(settings: Settings, folder: Path) -> str:
    """Return the service's name: the setting, or the flow folder's name made to fit table names."""
    if settings.service_name is not None:
        return settings.service_name
    original = folder.resolve().name
    name = re.sub(r"[^a-z0-9_]+", "_", original.lower()).strip("_")
    if not name:  # nothing of it fits, and two such folders must not share their tables
        name = f"flow_{hashlib.sha256(original.encode()).hexdigest()[:8]}"
    return (name if re.match(r"[a-z]", name) else f"flow_{name}")[:40]


def data_dir(settings: Settings, service: str, flow: Path) -> Path:
    """Return the folder in which the service keeps its data: not inside the flow's own, unless it is set so."""
    if settings.data_dir is not None:
        return settings.data_dir.absolute()
    here = Path.cwd()
    return (flow.resolve().parent if here.is_relative_to(flow.resolve()) else here) / ".flowpod" / service


def history_of(settings: Settings, data: Path) -> Address | None:
    """Return the chat history's database; None when it is switched off.

    Raises InvalidRequest for an address that is none, or a file with its password that cannot be read.
    """
    if settings.history == "off":
        return None
    if settings.history is None:
        return sqlite_address(data / HISTORY_FILE)
    return history_address(settings.history, settings.valid_history_password())


def create_service(
    package: Package, settings: Settings, name: str, history: Address | None, tracing: Tracing
) -> FlowService:
    """Return the service that runs the package, with its chat history and recorded runs in the database `history`.

    Raises InvalidRequest when the folder of a database file cannot be made.
    """
    database = None if history is None else Database(history, name)
    conversations = None
    if database is not None:
        conversations = HistoryService(
            database,
            write_timeout_s=settings.history_write_timeout_s,
            single_turn_days=settings.single_turn_days,
            days=settings.history_days,
            observer=tracing.metrics.history,
        )
    tracing.metrics.observe_abandoned_threads(lambda: package.resources.threads.abandoned)
    limits = Limits(settings.max_runs, settings.run_timeout_s, settings.max_output_chars)
    # A flow's nodes import this name themselves: it is there once the process has installed `compat`, and not before.
    from langstudio.types import File

    files = Files(File, settings.file_mounts, settings.allow_private_urls == "on")
    recorded = RecorderLimits(
        settings.max_background_runs, settings.background_queue, settings.run_days, settings.history_write_timeout_s
    )
    return FlowService(name, package, conversations, tracing, limits, files, database, recorded)


def routes_of(service: FlowService, settings: Settings, telemetry: Telemetry | None = None) -> list[Route]:
    """Return every endpoint of the service; without `telemetry` there are no traces and no metrics to show."""
    api = ApiSettings(
        settings.max_body_bytes,
        settings.heartbeat_s,
        openwebui_sessions=settings.openwebui_sessions == "on",
        dashscope_app_ids=settings.dashscope_app_ids,
        dashscope_session_s=settings.dashscope_session_s,
    )
    return [
        Route("/", Simple(service, api).answer, methods=["POST"]),
        Route("/run", Complete(service, api).answer, methods=["POST"]),
        Route("/v1/chat/completions", ChatCompletions(service, api).answer, methods=["POST"]),
        *Responses(service, api).routes(),
        Route("/v1/models", Models(service).answer, methods=["GET"]),
        Route("/api/v1/apps/{app_id}/completion", Application(service, api).answer, methods=["POST"]),
        *(Route(path, Generation(service, api, kind).answer, methods=["POST"]) for kind, path in GENERATION.items()),
        Route("/score", Score(service, api).answer, methods=["POST"]),
        Route("/feedback", Feedback(service, api).answer, methods=["POST"]),
        Route("/swagger.json", Swagger(service).answer, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/version", version, methods=["GET"]),
        *Runs(service, api).routes(),
        *Chats(service, api).routes(),
        *Traces(telemetry.recorder if telemetry else None).routes(),
        Route("/metrics", MetricsPage(telemetry.snapshots.families if telemetry else list).answer, methods=["GET"]),
        *(OpenApi(service).routes() if settings.docs == "on" else []),
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", Readyz(service).answer, methods=["GET"]),
    ]


def create_app(
    service: FlowService, settings: Settings, tokens: Sequence[str], telemetry: Telemetry | None = None
) -> ASGIApp:
    """Return the application that serves `service` to callers with one of `tokens`, or to all when there are none."""
    let_runs_end_streams()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        await service.open()
        watch = create_task(watch_event_loop(service.metrics))
        yield
        watch.cancel()
        # A server that drains has finished already; under any other one, runs end here.
        await service.finish(grace_s=0)
        await service.close()

    app = Starlette(
        routes=routes_of(service, settings, telemetry),
        middleware=[Middleware(TokenAuth, tokens=tokens)],
        exception_handlers={
            FlowpodError: on_flowpod_error,
            HTTPException: on_http_exception,
            Exception: on_bug,
        },
        lifespan=lifespan,
    )
    # Outside of Starlette, whose own outermost layer answers bugs: those answers have a request id too.
    return RequestHeaders(AccessLog(with_cors(app, settings.cors_origins), service.metrics), service)
