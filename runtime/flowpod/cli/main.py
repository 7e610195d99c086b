"""The `flowpod` command; owns what a process has once: signals, folder, import path, environment and logging."""

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from flowpod import __version__
from flowpod.cli.run import run_once
from flowpod.cli.traces import add_trace_commands
from flowpod.errors import FlowpodError, InvalidRequest, Problem
from flowpod.flow.document.flow import flow_json_schema
from flowpod.flow.load.pack import pack
from flowpod.logs import route_prints, set_up_logging
from flowpod.nodes import KINDS
from flowpod.serving.app import create_app, create_service, data_dir, history_of, service_name
from flowpod.serving.process import opened_flow, problems_of
from flowpod.serving.server import Server, collect_rarely, listen
from flowpod.serving.workers import Workers, worker_command
from flowpod.settings import PREFIX, Settings, read_settings, setting_rows, settings_markdown
from flowpod.telemetry.content import Secrets

logger = logging.getLogger("flowpod")

_LAST_TASKS_S = 2.0

T = TypeVar("T")


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
        description="Serve a flow over HTTP: POST /, /run and /score, and for chat flows /v1/chat/completions.",
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

    packing = commands.add_parser(
        "pack",
        help="copy a flow with all that it includes, and list the packages it asks for, for an image",
        description="Write FLOW, with the files that it includes, and the list of its packages into TARGET.",
    )
    _add_flow(packing)
    packing.add_argument("target", type=Path, metavar="TARGET", help="a folder that does not exist yet")
    packing.set_defaults(command=_pack)

    add_trace_commands(commands, os.environ)

    schema = commands.add_parser("schema", help="print the JSON Schema of flow.dag.yaml")
    schema.set_defaults(command=_schema)

    settings = commands.add_parser("settings", help="print the reference of all settings, in Markdown")
    settings.set_defaults(command=_settings)
    return parser


def _add_flow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("flow", type=Path, metavar="FLOW", help="the flow's folder, which holds flow.dag.yaml")


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 on")
    return int(text)


def _settings_help() -> str:
    rows = [
        f"  {name}{f' (default {default})' if default else ''}\n      {text}" for name, default, text in setting_rows()
    ]
    return "settings, from the environment:\n" + "\n".join(rows)


def _serve(options: argparse.Namespace) -> int:
    settings = read_settings()
    secrets = Secrets()
    set_up_logging(settings.log_level, settings.log_format, secrets.hide, secrets.said)
    route_prints()
    tokens = _tokens(settings, options.host, options.port)
    secrets.add(tokens)
    flow = _folder(options.flow)
    service = service_name(settings, flow)
    history = history_of(settings, data_dir(settings, service, flow))
    if history is not None and history.password:
        secrets.add([history.password])
    if options.workers > 1:
        with opened_flow(flow, settings, os.environ, secrets) as opened:
            opened.telemetry.snapshots.clear()  # a flow with problems is told of once, here, and not by every worker
        with listen(options.host, options.port) as listener:
            command = ["serve", str(flow), "--host", options.host, "--port", str(options.port)]
            return Workers(worker_command(command), listener, options.workers).run()
    if options.fd is not None:
        _end_with_parent()
    with opened_flow(flow, settings, os.environ, secrets) as opened:
        if options.fd is not None:
            opened.telemetry.snapshots.share()
        flow_service = create_service(opened.package, settings, service, history, opened.telemetry.tracing)
        listener = listen(options.host, options.port) if options.fd is None else socket.socket(fileno=options.fd)
        with listener:
            server = Server(create_app(flow_service, settings, tokens, opened.telemetry), flow_service, settings)
            collect_rarely()
            runner = asyncio.Runner(loop_factory=server.config.get_loop_factory())
            runner.run(_to_the_end(server.serve(sockets=[listener])))
    return _leave(0)


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Do `work`, then cancel the tasks that a flow's code has left, and give them a moment."""
    try:
        return await work
    finally:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_TASKS_S)


def _leave(status: int) -> NoReturn:
    """End the process at once: Python would wait for threads, and a loop that is closed for tasks, that never end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _end_with_parent() -> None:
    """End as at SIGTERM when the process that supervises this one is gone, which closes our standard input."""

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _check(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    problems = problems_of(_folder(options.flow), read_settings(), os.environ)
    for problem in problems:
        sys.stdout.write(f"{_shown(problem, options.flow)}\n")
    errors = sum(problem.severity == "error" for problem in problems)
    counts = f"{errors} errors, {len(problems) - errors} warnings" if problems else "no problems"
    sys.stdout.write(f"{options.flow}: {counts}\n")
    return 1 if errors else 0


def _run(options: argparse.Namespace) -> int:
    settings = read_settings()
    if settings.trace_store == "auto":  # it leaves nothing behind unless it is told to
        settings = settings.model_copy(update={"trace_store": "off"})
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    inputs = dict(_input(text) for text in options.inputs)
    flow = _folder(options.flow)
    runner = asyncio.Runner()
    try:
        with opened_flow(flow, settings, os.environ, Secrets()) as opened:
            name = service_name(settings, flow)
            service = create_service(opened.package, settings, name, None, opened.telemetry.tracing)
            status = runner.run(_to_the_end(run_once(service, inputs)))
    except KeyboardInterrupt:
        status = 130
    return _leave(status)


def _pack(options: argparse.Namespace) -> int:
    left_out = pack(_folder(options.flow), options.target)
    sys.stdout.write(f"{options.flow}: packed into {options.target}\n")
    for requirement in left_out:
        sys.stdout.write(f"{requirement}: left out of its requirements, Flowpod stands in for it\n")
    return 0


def _schema(options: argparse.Namespace) -> int:  # noqa: ARG001
    sys.stdout.write(json.dumps(flow_json_schema(KINDS), indent=2) + "\n")
    return 0


def _settings(options: argparse.Namespace) -> int:  # noqa: ARG001
    sys.stdout.write(settings_markdown())
    return 0


def _input(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidRequest(f"{text!r}: inputs are given as NAME=VALUE")
    return name, value


def _folder(flow: Path) -> Path:
    """Return the flow's folder, which may be named by the file in it."""
    return (flow.parent if flow.name == "flow.dag.yaml" else flow).absolute()


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
