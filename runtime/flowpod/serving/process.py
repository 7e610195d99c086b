"""Opening a flow in this process: its folder, import path, environment variables and traces."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from flowpod.compat.stand_ins import install as install_stand_ins
from flowpod.engine.package import Package, build_package
from flowpod.errors import FlowProblems, Problem
from flowpod.flow.load.includes import FILE, assemble, includes_of
from flowpod.serving.app import data_dir, service_name
from flowpod.settings import Settings
from flowpod.telemetry.redaction import Secrets
from flowpod.telemetry.setup import Telemetry, set_up_telemetry
from flowpod.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)


@contextmanager
def opened_flow(
    flow: Path, settings: Settings, environ: MutableMapping[str, str], secrets: Secrets
) -> Iterator[tuple[Package, Telemetry]]:
    """Build the flow in the folder `flow`; until the block ends, its folder is current and its files are importable.

    Sets its environment variables in `environ` and adds its connections' keys to `secrets`. Raises FlowProblems when it
    cannot be served, also for problems of the environment.
    """
    install_stand_ins()
    service = service_name(settings, flow)
    telemetry = set_up_telemetry(settings, service, data_dir(settings, service, flow), environ, secrets)
    try:
        with _built(flow, settings, telemetry.tracing, environ, settings.data_dir) as (package, problems, folder):
            fatal = [problem for problem in problems if problem.severity != "warning"]
            if package is None or fatal:
                raise FlowProblems([*fatal])
            for problem in problems:
                logger.warning("%s", problem)
            if _uses_openai(folder):
                from flowpod.telemetry.instrument_openai import trace_openai_calls

                trace_openai_calls()
            yield package, telemetry
    finally:
        telemetry.shutdown()


def _uses_openai(folder: Path) -> bool:
    """Return whether the flow's code may call models with the openai package, which takes half a second to import."""
    files = (file for file in folder.rglob("*.py") if file.is_file())
    return "openai" in sys.modules or any(b"openai" in file.read_bytes() for file in files)


def problems_of(flow: Path, settings: Settings, environ: MutableMapping[str, str]) -> list[Problem]:
    """Return every problem of the flow in the folder `flow`, without running its nodes."""
    install_stand_ins()
    try:
        with _built(flow, settings, Tracing(None), environ) as (_, problems, _):
            return problems
    except FlowProblems as error:
        return list(error.problems)


@contextmanager
def _built(
    flow: Path, settings: Settings, tracing: Tracing, environ: MutableMapping[str, str], data: Path | None = None
) -> Iterator[tuple[Package | None, list[Problem], Path]]:
    connections = settings.connections and settings.connections.absolute()  # the current folder changes below
    with _inside(flow, data) as assembled:
        package, problems = build_package(
            flow,
            environ,
            tracing,
            settings.threads,
            connections=connections,
            assembled=assembled,
            set_variables=environ.update,
            private_urls=settings.allow_private_urls == "on",
        )
        yield package, problems, assembled or flow


@contextmanager
def _inside(flow: Path, data: Path | None = None) -> Iterator[Path | None]:
    """Make the flow's folder current, as promptflow does, and its files importable; nothing is written into it.

    A flow that includes files from elsewhere is copied with them, into the folder `data` if given; yields the copy.
    """
    started_in = Path.cwd()
    if not flow.is_dir():
        yield None  # loading the flow reports it
        return
    with _assembled(flow, data) as assembled:
        folder = assembled or flow
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        try:
            yield assembled
        finally:
            sys.path.remove(str(folder))
            os.chdir(started_in)


@contextmanager
def _assembled(folder: Path, data: Path | None) -> Iterator[Path | None]:
    includes = includes_of(folder)
    if not includes:
        yield None
        return
    if data is not None:
        data = data.absolute()  # the current folder changes below
        data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flow-", dir=data) as target:
        try:
            assemble(folder, includes, Path(target))
        except OSError as error:
            text = f"the included files cannot be copied: {error}"
            raise FlowProblems([Problem(FILE, "additional_includes", text)]) from error
        yield Path(target)
