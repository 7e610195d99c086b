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

from flowpod.api.dashscope.application import Application
from flowpod.api.dashscope.generation import PATHS as GENERATION
from flowpod.api.dashscope.generation import Generation
from flowpod.api.docs.openapi import OpenApi
from flowpod.api.http.access_log import AccessLog
from flowpod.api.http.api_settings import ApiSettings
from flowpod.api.http.cors import with_cors
from flowpod.api.http.errors import on_bug, on_flowpod_error, on_http_exception
from flowpod.api.http.health import Readyz, healthz
from flowpod.api.http.metrics import MetricsPage
from flowpod.api.http.middleware import RequestHeaders, TokenAuth
from flowpod.api.http.sse import let_runs_end_streams
from flowpod.api.native.complete import Complete
from flowpod.api.native.runs import Runs
from flowpod.api.native.sessions import Chats
from flowpod.api.native.simple import Simple
from flowpod.api.native.traces import Traces
from flowpod.api.openai.chat import ChatCompletions, Models
from flowpod.api.openai.responses import Responses
from flowpod.api.promptflow.score import Feedback, Score, Swagger, health, version
from flowpod.background.queue import QueueLimits
from flowpod.compat import modules_in_force
from flowpod.content.files import Files
from flowpod.engine.package import Package
from flowpod.engine.run import Limits
from flowpod.errors import FlowpodError
from flowpod.service import FlowService
from flowpod.settings import Settings
from flowpod.storage.address import Address, history_address, sqlite_address
from flowpod.storage.database import Database
from flowpod.storage.sessions.service import HistoryService
from flowpod.telemetry.event_loop import watch_event_loop
from flowpod.telemetry.setup import Telemetry
from flowpod.telemetry.tracing import Tracing

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
    files = Files(modules_in_force.files().File, settings.file_mounts, settings.allow_private_urls == "on")
    recorded = QueueLimits(
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
