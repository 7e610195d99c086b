"""The `flowpod` command; owns the state of the process: signals, current folder, import path, environment, logging."""

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from flowpod import __version__
from flowpod.cli.kinds import kinds_markdown
from flowpod.cli.run import run_once
from flowpod.cli.traces import Subparsers, add_trace_commands
from flowpod.errors import FlowpodError, InvalidRequest, Problem
from flowpod.flow.document.flow import flow_json_schema
from flowpod.flow.load.pack import pack
from flowpod.logs import route_prints, set_up_logging
from flowpod.nodes import KINDS
from flowpod.serving.app import create_app, create_service, data_dir, history_of, service_name
from flowpod.serving.process import opened_flow, problems_of
from flowpod.serving.server import Server, bind, collect_rarely, listen
from flowpod.serving.sweeper import raise_descriptor_limit
from flowpod.serving.workers import Workers, report_ready, stop_with_supervisor
from flowpod.settings import PREFIX, Settings, read_settings, setting_rows, settings_markdown
from flowpod.telemetry.redaction import Secrets

logger = logging.getLogger("flowpod")

_CANCEL_WAIT_S = 2.0

_PAGES: Mapping[str, tuple[str, Callable[[], str]]] = {
    "schema": ("print the JSON Schema of flow.dag.yaml", lambda: json.dumps(flow_json_schema(KINDS), indent=2) + "\n"),
    "kinds": ("print the index of the node kinds in Markdown", kinds_markdown),
    "settings": ("print the settings reference in Markdown", settings_markdown),
}
"""The subcommands that print a page: their help texts, and what returns the page."""

Command = Callable[[argparse.Namespace], int]
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except FlowpodError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of standard output has gone away. Without this, the flush at exit would fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flowpod", description="Serve an LLM application flow (flow.dag.yaml).")
    parser.add_argument("--version", action="version", version=f"flowpod {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    text = "Report every problem in a flow, with file, line and key."
    _add_flow_command(commands, "check", _check_flow, help="report every problem in a flow", description=text)
    text = "Run a flow once. Prints outputs to standard output and the state of nodes to standard error."
    run = _add_flow_command(commands, "run", _run_flow, help="run a flow once in the terminal", description=text)
    text = "an input of the flow; write lists and objects as JSON"
    run.add_argument("inputs", nargs="*", metavar="NAME=VALUE", help=text)
    summary = "copy a flow and the files it includes into a folder, for an image"
    text = "Copy FLOW, the files it includes and a list of the packages it requires to TARGET."
    packing = _add_flow_command(commands, "pack", _pack_flow, help=summary, description=text)
    packing.add_argument("target", type=Path, metavar="TARGET", help="the folder to create")
    add_trace_commands(commands, os.environ)
    for name, (summary, page) in _PAGES.items():
        commands.add_parser(name, help=summary).set_defaults(command=partial(_print, page))
    return parser


def _add_serve(commands: Subparsers) -> None:
    serve = _add_flow_command(
        commands,
        "serve",
        _serve,
        help="serve a flow over HTTP",
        description="Serve a flow over HTTP: LangStudio's, OpenAI's, DashScope's and Prompt Flow's protocols.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on (default %(default)s)")
    text = "the port to listen on; 0 picks a free one (default %(default)s)"
    serve.add_argument("--port", type=_port, default=8080, help=text)
    serve.add_argument("--workers", type=_positive, default=1, help="the number of processes (default %(default)s)")
    serve.add_argument("--fd", type=int, help=argparse.SUPPRESS)


def _add_flow_command(commands: Subparsers, name: str, command: Command, **texts: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, **texts)
    parser.add_argument("flow", type=Path, metavar="FLOW", help="the flow folder, which contains flow.dag.yaml")
    parser.set_defaults(command=command)
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _settings_help() -> str:
    rows = [
        f"  {name}{f' (default {default})' if default else ''}\n      {text}" for name, default, text in setting_rows()
    ]
    return "settings (environment variables):\n" + "\n".join(rows)


def _serve(options: argparse.Namespace) -> int:
    settings = read_settings()
    secrets = Secrets()
    set_up_logging(settings.log_level, settings.log_format, secrets.redact, secrets.redact_words)
    route_prints()
    tokens = _tokens(settings, options.host, options.port)
    secrets.add(tokens)
    flow = _folder(options.flow)
    service = service_name(settings, flow)
    history = history_of(settings, data_dir(settings, service, flow))
    if history is not None and history.password:
        secrets.add([history.password])
    if options.workers > 1:
        with opened_flow(flow, settings, os.environ, secrets) as (_, telemetry):
            telemetry.snapshots.clear()  # reports problems once, instead of once per worker
        with bind(options.host, options.port) as bound:
            arguments = ["serve", str(flow), "--host", options.host, "--port", str(options.port)]
            return Workers([sys.executable, "-m", "flowpod", *arguments], bound, options.workers).run()
    if options.fd is not None:
        stop_with_supervisor()
    with opened_flow(flow, settings, os.environ, secrets) as (package, telemetry):
        if options.fd is not None:
            telemetry.snapshots.share()
        flow_service = create_service(package, settings, service, history, telemetry.tracing)
        listener = listen(options.host, options.port) if options.fd is None else socket.socket(fileno=options.fd)
        with listener:
            raise_descriptor_limit()
            app = create_app(flow_service, settings, tokens, telemetry)
            on_started = None if options.fd is None else report_ready
            server = Server(app, flow_service, settings, on_started)
            collect_rarely()
            runner = asyncio.Runner(loop_factory=server.config.get_loop_factory())
            runner.run(_run_and_cancel_tasks(server.serve(sockets=[listener])))
    return _exit(1 if server.failed else 0)


async def _run_and_cancel_tasks(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, then cancel the tasks that the flow's code left running; wait at most _CANCEL_WAIT_S for them."""
    try:
        return await work
    finally:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_WAIT_S)


def _exit(status: int) -> NoReturn:
    """Exit at once. A normal exit would wait for threads and tasks of the flow's code, which may never end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _check_flow(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    problems = problems_of(_folder(options.flow), read_settings(), os.environ)
    for problem in problems:
        sys.stdout.write(f"{_format_problem(problem, options.flow)}\n")
    errors = sum(problem.severity == "error" for problem in problems)
    counts = (
        f"{_counted(errors, 'error')}, {_counted(len(problems) - errors, 'warning')}" if problems else "no problems"
    )
    sys.stdout.write(f"{options.flow}: {counts}\n")
    return 1 if errors else 0


def _run_flow(options: argparse.Namespace) -> int:
    settings = read_settings()
    changes = {"error_detail": "full"}  # the caller is the developer
    if settings.trace_store == "auto":  # a single run stores nothing unless the setting says so
        changes["trace_store"] = "off"
    settings = settings.model_copy(update=changes)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    inputs = dict(_input(text) for text in options.inputs)
    flow = _folder(options.flow)
    runner = asyncio.Runner()
    try:
        with opened_flow(flow, settings, os.environ, Secrets()) as (package, telemetry):
            name = service_name(settings, flow)
            service = create_service(package, settings, name, None, telemetry.tracing)
            status = runner.run(_run_and_cancel_tasks(run_once(service, inputs)))
    except KeyboardInterrupt:
        status = 130
    return _exit(status)


def _pack_flow(options: argparse.Namespace) -> int:
    excluded = pack(_folder(options.flow), options.target)
    sys.stdout.write(f"{options.flow}: packed into {options.target}\n")
    for requirement in excluded:
        sys.stdout.write(f"{requirement}: left out of the requirements, because Flowpod provides it\n")
    return 0


def _print(page: Callable[[], str], options: argparse.Namespace) -> int:  # noqa: ARG001
    sys.stdout.write(page())
    return 0


def _input(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidRequest(f"{text!r} is not an input; write NAME=VALUE")
    return name, value


def _folder(flow: Path) -> Path:
    """Return the flow's folder; `flow` is the folder or the flow.dag.yaml in it."""
    return (flow.parent if flow.name == "flow.dag.yaml" else flow).absolute()


def _format_problem(problem: Problem, flow: Path) -> str:
    kind = "error" if problem.severity == "error" else "warning"
    place = "" if Path(problem.file).is_absolute() or problem.file == str(flow) else f"{flow}/"
    return f"{kind}: {place}{problem}"


def _tokens(settings: Settings, host: str, port: int) -> tuple[str, ...]:
    """Return the valid tokens; raises InvalidRequest if no token is set and other machines can reach `host`."""
    if settings.auth == "off":
        logger.warning("%sAUTH=off: anyone who can reach %s:%d can run the flow", PREFIX, host, port)
        return ()
    tokens = settings.valid_tokens()
    if not tokens and not _is_loopback(host):
        raise InvalidRequest(
            f"other machines can reach {host}, and no token is set. Set {PREFIX}TOKENS or {PREFIX}TOKENS_FILE, "
            f"or {PREFIX}AUTH=off if a gateway in front of this service authenticates clients"
        )
    return tokens


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
