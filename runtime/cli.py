"""The `flowpod` command; owns what a process has once: signals, folder, import path, environment and logging."""

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime import __version__, compat
from runtime.app import create_app, create_service, data_dir, history_of, service_name
from runtime.errors import FlowpodError, FlowProblems, InvalidRequest, Problem
from runtime.flow.document import flow_json_schema
from runtime.flow.includes import assemble, includes_of
from runtime.run.package import Package, build_package
from runtime.server import Server, listen
from runtime.settings import PREFIX, Settings, read_settings, setting_rows, settings_markdown
from runtime.telemetry.setup import set_up_tracing
from runtime.telemetry.tracing import Tracing
from runtime.terminal import run_once
from runtime.workers import Workers, worker_command

logger = logging.getLogger("runtime")

_NOISY_LOGGERS = ("uvicorn.error", "httpx2", "httpcore2", "openai", "asyncio", "sse_starlette")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except FlowpodError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; keep the interpreter from failing at exit when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flowpod", description="Serve an LLM application flow (flow.dag.yaml).")
    parser.add_argument("--version", action="version", version=f"flowpod {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="serve a flow over HTTP",
        description="Serve a flow over HTTP: POST /, POST /run, and for chat flows POST /v1/chat/completions.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_flow(serve)
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on (default %(default)s)")
    serve.add_argument("--port", type=_port, default=8080, help="the port, 0 for a free one (default %(default)s)")
    serve.add_argument("--workers", type=_positive, default=1, help="how many processes (default %(default)s)")
    serve.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    serve.set_defaults(command=_serve)

    check = commands.add_parser(
        "check", help="name every problem of a flow", description="Name every problem of a flow."
    )
    _add_flow(check)
    check.set_defaults(command=_check)

    run = commands.add_parser(
        "run",
        help="run a flow once, here",
        description="Run a flow once: its answer on the standard output, the state of its nodes on the standard error.",
    )
    _add_flow(run)
    run.add_argument("inputs", nargs="*", metavar="NAME=VALUE", help="an input of the flow; lists and objects as JSON")
    run.set_defaults(command=_run)

    schema = commands.add_parser("schema", help="print the JSON Schema of flow.dag.yaml")
    schema.set_defaults(command=_schema)

    settings = commands.add_parser("settings", help="print the reference of all settings, in Markdown")
    settings.set_defaults(command=_settings)
    return parser


def _add_flow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("flow", type=Path, metavar="FLOW", help="the flow's folder, which holds flow.dag.yaml")


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(text)
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _settings_help() -> str:
    rows = [
        f"  {name}{f' (default {default})' if default else ''}\n      {text}" for name, default, text in setting_rows()
    ]
    return "settings, from the environment:\n" + "\n".join(rows)


def _serve(options: argparse.Namespace) -> int:
    settings = read_settings()
    _set_up_logging(settings)
    tokens = _tokens(settings, options.host, options.port)
    service = service_name(settings, options.flow.absolute())
    history = history_of(settings, data_dir(settings, service, options.flow.absolute()))
    if options.workers > 1:
        with _opened(options.flow, settings):
            pass  # a flow with problems is told of once, here, and not by every worker
        with listen(options.host, options.port) as listener:
            command = ["serve", str(options.flow), "--host", options.host, "--port", str(options.port)]
            return Workers(worker_command(command), listener, options.workers).run()
    with _opened(options.flow, settings) as opened:
        flow_service = create_service(opened.package, settings, service, history, opened.tracing)
        listener = listen(options.host, options.port) if options.fd is None else socket.socket(fileno=options.fd)
        with listener:
            Server(create_app(flow_service, settings, tokens), flow_service, settings).run(sockets=[listener])
    return 0


def _check(options: argparse.Namespace) -> int:
    compat.install()
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    with _inside(options.flow.absolute()) as place:
        _, problems = _build(place, read_settings(), Tracing(None), threads=1)
    for problem in problems:
        sys.stdout.write(f"{_shown(problem, options.flow)}\n")
    errors = sum(problem.severity == "error" for problem in problems)
    counts = f"{errors} errors, {len(problems) - errors} warnings" if problems else "no problems"
    sys.stdout.write(f"{options.flow}: {counts}\n")
    return 1 if errors else 0


def _run(options: argparse.Namespace) -> int:
    settings = read_settings()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    inputs = dict(_input(text) for text in options.inputs)
    with _opened(options.flow, settings) as opened:
        name = service_name(settings, opened.package.flow.folder)
        service = create_service(opened.package, settings, name, None, opened.tracing)
        return asyncio.run(run_once(service, inputs))


def _schema(options: argparse.Namespace) -> int:  # noqa: ARG001
    sys.stdout.write(json.dumps(flow_json_schema(), indent=2) + "\n")
    return 0


def _settings(options: argparse.Namespace) -> int:  # noqa: ARG001
    sys.stdout.write(settings_markdown())
    return 0


def _input(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidRequest(f"{text!r}: inputs are given as NAME=VALUE")
    return name, value


@dataclass(frozen=True, slots=True)
class _Opened:
    """A flow that this process runs."""

    package: Package
    tracing: Tracing


@contextmanager
def _opened(flow: Path, settings: Settings) -> Iterator[_Opened]:
    """Build the flow, in its own folder and with its own files importable.

    Raises FlowProblems when it cannot be served, problems of the environment included.
    """
    compat.install()
    flow = flow.absolute()
    tracing, provider = Tracing(None), None
    if settings.tracing == "on":
        tracing, provider = set_up_tracing(service_name(settings, flow), os.environ)
    with _inside(flow, settings.data_dir) as place:
        package, problems = _build(place, settings, tracing, settings.threads)
        fatal = [problem for problem in problems if problem.severity != "warning"]
        if package is None or fatal:
            raise FlowProblems([*fatal])
        for problem in problems:
            logger.warning("%s", problem)
        yield _Opened(package, tracing)
    if provider is not None:
        provider.shutdown()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a flow is, the copy of it that is served if it includes other files, and where the command was given."""

    flow: Path
    assembled: Path | None
    started_in: Path


@contextmanager
def _inside(flow: Path, data: Path | None = None) -> Iterator[_Place]:
    """Make the flow's folder the current one, as promptflow does, and its files importable; write nothing into it.

    A flow that includes files from elsewhere is copied with them, into the folder `data` if there is one.
    """
    folder, started_in = flow if flow.is_dir() else flow.parent, Path.cwd()
    with _assembled(folder, data) as assembled:
        if folder.is_dir():
            os.chdir(assembled or folder)
            sys.path.insert(0, str(assembled or folder))
            sys.dont_write_bytecode = True
        try:
            yield _Place(flow, assembled, started_in)
        finally:
            if assembled is not None:
                os.chdir(started_in)


@contextmanager
def _assembled(folder: Path, data: Path | None) -> Iterator[Path | None]:
    includes = includes_of(folder)
    if not includes:
        yield None
        return
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flow-", dir=data) as target:
        assemble(folder, includes, Path(target))
        yield Path(target)


def _build(place: _Place, settings: Settings, tracing: Tracing, threads: int) -> tuple[Package | None, list[Problem]]:
    connections = None if settings.connections is None else place.started_in / settings.connections
    return build_package(
        place.flow,
        os.environ,
        tracing,
        threads,
        connections=connections,
        assembled=place.assembled,
        set_variables=os.environ.update,
        private_urls=settings.allow_private_urls,
    )


def _shown(problem: Problem, flow: Path) -> str:
    kind = "error" if problem.severity == "error" else "warning"
    place = "" if Path(problem.file).is_absolute() or problem.file == str(flow) else f"{flow}/"
    return f"{kind}: {place}{problem}"


def _tokens(settings: Settings, host: str, port: int) -> tuple[str, ...]:
    """Return the tokens that callers need; raises InvalidRequest when the address would be open to anybody."""
    if settings.auth == "off":
        logger.warning("%sAUTH=off: anybody who reaches %s:%d may run the flow", PREFIX, host, port)
        return ()
    tokens = settings.valid_tokens()
    if not tokens and not _is_loopback(host):
        raise InvalidRequest(
            f"{host} can be reached from other machines and no token is set. Set {PREFIX}TOKENS or "
            f"{PREFIX}TOKENS_FILE, or {PREFIX}AUTH=off if something in front of this service checks its callers"
        )
    return tokens


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _set_up_logging(settings: Settings) -> None:
    level = settings.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if settings.log_level != "debug":
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
