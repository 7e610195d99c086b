"""The composition root: builds the service and the ASGI application from a flow package and the settings."""

import hashlib
import re
from asyncio import create_task
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp

from flowpod.api.dashscope.application import Application
from flowpod.api.dashscope.errors import PATH_PREFIX as DASHSCOPE_PREFIX
from flowpod.api.dashscope.errors import dashscope_error
from flowpod.api.dashscope.generation import GENERATION_PATHS, Generation
from flowpod.api.docs.openapi import ApiDocs
from flowpod.api.http.access import AccessControl, AccessRules
from flowpod.api.http.access_log import AccessLog
from flowpod.api.http.cors import with_cors
from flowpod.api.http.endpoint import get, ignore_trailing_slash, post
from flowpod.api.http.errors import ErrorResponses
from flowpod.api.http.health import Readiness, healthz
from flowpod.api.http.metrics import MetricsPage
from flowpod.api.http.middleware import RequestHeaders
from flowpod.api.http.sse import keep_streams_on_shutdown
from flowpod.api.native.complete import Complete
from flowpod.api.native.runs import Runs
from flowpod.api.native.sessions import Sessions
from flowpod.api.native.simple import Simple
from flowpod.api.native.traces import Traces
from flowpod.api.openai.chat import ChatCompletions, ModelList
from flowpod.api.openai.responses import Responses
from flowpod.api.promptflow.score import Feedback, Score, Swagger, health, version
from flowpod.compat import modules_in_force
from flowpod.content.files import Files
from flowpod.engine.package import Package
from flowpod.service import FlowService
from flowpod.settings import Settings
from flowpod.storage.database import Database
from flowpod.storage.dialects import Dialect, SQLite, dialect_of
from flowpod.storage.sessions.service import HistoryService
from flowpod.telemetry.event_loop import watch_event_loop
from flowpod.telemetry.setup import Telemetry
from flowpod.telemetry.trace_reader import TraceReader
from flowpod.telemetry.tracing import Tracing

HISTORY_FILE = "chat_history.db"


def service_name(settings: Settings, folder: Path) -> str:
    """Return the service's name: the setting, or the flow folder's name adapted to the rules of table names."""
    if settings.service_name is not None:
        return settings.service_name
    original = folder.resolve().name
    name = re.sub(r"[^a-z0-9_]+", "_", original.lower()).strip("_")
    if not name:  # no valid character is left, and two such folders must not share their tables
        name = f"flow_{hashlib.sha256(original.encode()).hexdigest()[:8]}"
    return (name if re.match(r"[a-z]", name) else f"flow_{name}")[:40]


def data_dir(settings: Settings, service: str, flow: Path) -> Path:
    """Return the folder for the service's data: the setting, or a folder outside the flow's folder."""
    if settings.data_dir is not None:
        return settings.data_dir.absolute()
    here = Path.cwd()
    return (flow.resolve().parent if here.is_relative_to(flow.resolve()) else here) / ".flowpod" / service


def history_of(settings: Settings, data: Path) -> Dialect | None:
    """Return the chat history's database, or None when it is off.

    Raises InvalidRequest for an invalid URL, or when the file with its password cannot be read.
    """
    if settings.history == "off":
        return None
    if settings.history is None:
        return SQLite(data / HISTORY_FILE)
    return dialect_of(settings.history, settings.valid_history_password())


def create_service(
    package: Package, settings: Settings, name: str, history: Dialect | None, tracing: Tracing
) -> FlowService:
    """Return the service that runs the package; `history` is the database of its sessions and recorded runs.

    Raises InvalidRequest when the folder of a database file cannot be created.
    """
    database = None if history is None else Database(history, name)
    conversations = None
    if database is not None:
        conversations = HistoryService(
            database,
            write_timeout_s=settings.history_write_timeout_s,
            single_turn_days=settings.single_turn_days,
            days=settings.history_days,
            metrics=tracing.metrics.history,
        )
    resources = package.resources
    tracing.metrics.observe_abandoned_threads(lambda: resources.threads.abandoned + resources.renderers.abandoned)
    files = Files(modules_in_force.files().File, settings.file_mounts, settings.allow_private_urls == "on")
    return FlowService(name, package, conversations, tracing, settings, files, database)


def routes_of(
    service: FlowService, settings: Settings, telemetry: Telemetry | None = None, *, needs_token: bool = False
) -> list[Route]:
    """Return the routes of all endpoints; without `telemetry`, traces and metrics are empty."""
    processor = telemetry.trace_writer if telemetry else None
    routes = [
        post("/", Simple(service, settings).handle),
        post("/run", Complete(service, settings).handle),
        post("/v1/chat/completions", ChatCompletions(service, settings).handle),
        get("/v1/models", ModelList(service).handle),
        post("/api/v1/apps/{app_id}/completion", Application(service, settings).handle),
        *(post(path, Generation(service, settings, name).handle) for name, path in GENERATION_PATHS.items()),
        post("/score", Score(service, settings).handle),
        post("/feedback", Feedback(service, settings).handle),
        get("/swagger.json", Swagger(service).handle),
        get("/health", health),
        get("/version", version),
        get("/metrics", MetricsPage(telemetry.snapshots.families if telemetry else list).handle),
        get("/healthz", healthz),
        get("/readyz", Readiness(service).handle),
        *Responses(service, settings).routes(),
        *Runs(service, settings).routes(),
        *Sessions(service, settings).routes(),
        *Traces(TraceReader(processor) if processor else None).routes(),
    ]
    return [*routes, *ApiDocs(service, needs_token=needs_token).routes()] if settings.docs == "on" else routes


def create_app(
    service: FlowService, settings: Settings, tokens: Sequence[str], telemetry: Telemetry | None = None
) -> ASGIApp:
    """Return the application that serves `service`; callers need one of `tokens`, if there are any."""
    keep_streams_on_shutdown()
    errors = ErrorResponses({DASHSCOPE_PREFIX: dashscope_error})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        await service.open()
        watch = create_task(watch_event_loop(service.metrics))
        yield
        watch.cancel()
        # Our own server has finished the runs by now; under any other server, they are cancelled here.
        await service.finish(grace_s=0)
        await service.close()

    # Without a token, FLOWPOD_AUTH=off says that a gateway forwards requests, for any host.
    rules = AccessRules(tokens, settings.cors_origins, only_loopback=settings.auth == "on")
    app = Starlette(
        routes=routes_of(service, settings, telemetry, needs_token=bool(tokens)),
        middleware=[Middleware(AccessControl, rules=rules, errors=errors)],
        exception_handlers=errors.handlers(),
        lifespan=lifespan,
    )
    ignore_trailing_slash(app.router)
    # These wrap Starlette, whose own outermost layer responds to bugs, so those responses have a request id too.
    return RequestHeaders(AccessLog(with_cors(app, settings.cors_origins), service.metrics), service)
