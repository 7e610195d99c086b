"""`flowpod traces` and `flowpod trace`: print the traces stored in a data folder."""

import argparse
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

from flowpod.cli.trace_view import TraceView, trace_file
from flowpod.errors import InvalidRequest
from flowpod.jsonable import dumps
from flowpod.settings import read_settings
from flowpod.telemetry.trace_store import Filters, StoredRun, TraceStore
from flowpod.telemetry.tree import summary_as_json, trace_as_json

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_trace_commands(commands: Subparsers, environ: Mapping[str, str]) -> None:
    """Add the two commands; `NO_COLOR` in `environ` turns colours off."""
    colours = not environ.get("NO_COLOR")
    summary = "list the runs with a stored trace"
    traces = commands.add_parser("traces", help=summary, description="List runs, newest first.")
    traces.add_argument("--session", default="", help="only runs of this session")
    traces.add_argument("--user", default="", help="only runs of this user")
    statuses = ("Completed", "Failed", "Canceled")
    traces.add_argument("--status", default="", choices=statuses, help="only runs with this status")
    traces.add_argument("--min-duration", type=float, metavar="SECONDS", help="only runs that took at least this long")
    traces.add_argument("--max-duration", type=float, metavar="SECONDS", help="only runs that took at most this long")
    traces.add_argument("--text", default="", help="only runs with this text in their input, output or error")
    text = "the maximum number of runs (default %(default)s)"
    traces.add_argument("-n", type=_count, default=20, metavar="COUNT", help=text)
    traces.set_defaults(command=partial(_traces, colours=colours))

    text = "Print the inputs and outputs of every node of a run."
    trace = commands.add_parser("trace", help="print a run's trace as a tree", description=text)
    text = "the id of a trace, run, request or session; a prefix of a run id is enough (default: the newest run)"
    trace.add_argument("id", nargs="?", default="", metavar="ID", help=text)
    trace.add_argument("--full", action="store_true", help="print texts in full, and every attribute")
    trace.set_defaults(command=partial(_trace, colours=colours))
    for parser in (traces, trace):
        parser.add_argument("--data", type=Path, metavar="FOLDER", help="the service's data folder")
        parser.add_argument("--json", action="store_true", help="print the JSON of GET /traces")


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) < 2**63):  # SQLite takes -1 as no limit
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _traces(options: argparse.Namespace, *, colours: bool) -> int:
    limits = (options.min_duration, options.max_duration)
    filters = Filters(options.session, options.user, options.status, *limits, options.text)
    found = _store(options.data).newest(filters, options.n)
    if options.json:
        sys.stdout.write(dumps({"data": list(map(summary_as_json, found))}).decode() + "\n")
    else:
        sys.stdout.write(_view(colours).listing(found) if found else "no runs\n")
    return 0


def _trace(options: argparse.Namespace, *, colours: bool) -> int:
    store = _store(options.data)
    newest = (stored.summary for stored in store.newest(Filters(), 1))
    name = options.id or next((run.run_id or run.trace_id for run in newest), "")
    found = _all_runs(store, name)
    if not found:
        raise InvalidRequest(f"no trace, run, request or session in {store.path} has the id {name!r}")
    if options.json:
        sys.stdout.write(dumps(trace_as_json(found)).decode() + "\n")
    else:
        sys.stdout.write(_view(colours, full=options.full).trace(found))
    return 0


def _all_runs(store: TraceStore, name: str) -> list[StoredRun]:
    runs, after = list[StoredRun](), 0
    while True:
        found = store.find(name, after=after, max_bytes=sys.maxsize)
        runs += found.runs
        if found.next_after is None:
            return runs
        after = found.next_after


def _store(data: Path | None) -> TraceStore:
    return TraceStore(trace_file(data or read_settings().data_dir, Path.cwd()))


def _view(colours: bool, *, full: bool = False) -> TraceView:
    return TraceView(shutil.get_terminal_size((120, 24)).columns, colours and sys.stdout.isatty(), full)
