"""docs/observability.md and the Grafana dashboard name metrics and labels that exist."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.prometheus import prometheus_text
from tests.support.serving import ROOT

PAGE = ROOT / "docs" / "observability.md"
DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"
NAME = re.compile(r"\b(?:flowpod|gen_ai)_[a-z_]+")


@pytest.fixture(scope="module")
def existing() -> tuple[set[str], set[str]]:
    """The names of all samples and labels that a process can have."""
    metrics = Metrics()
    metrics.run_began()
    metrics.run_ended("Completed", "simple", 1)
    metrics.node_ended("a", "llm", "Completed", 1)
    call = metrics.model_labels("chat", "openai", "m")
    metrics.first_chunk_received(call, 1)
    metrics.model_call_ended(call, 1, "x")
    metrics.tokens_used(call, 1, 1)
    metrics.history.written(1)
    metrics.event_loop_lagged(1)
    metrics.spans_dropped(1, "store")
    metrics.observe_abandoned_threads(lambda: 0)
    families = list(text_string_to_metric_families(prometheus_text(metrics.instruments.reader()().values()).decode()))
    samples = [sample for family in families for sample in family.samples]
    return {sample.name for sample in samples}, {label for sample in samples for label in sample.labels}


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_asks_for_what_exists(existing: tuple[set[str], set[str]]) -> None:
    names, labels = existing
    used = {name for expression in expressions() for name in NAME.findall(expression)}
    assert used <= names | labels
    asked = {name for expression in expressions() for name in re.findall(r"\b((?:flowpod|gen_ai)_\w+)\{", expression)}
    assert asked <= names


def test_the_dashboard_shows_everything(existing: tuple[set[str], set[str]]) -> None:
    ends = re.compile(r"_(bucket|count|sum|created)$")
    families = {ends.sub("", name) for name in existing[0]}
    shown = {ends.sub("", name) for expression in expressions() for name in NAME.findall(expression)}
    assert families <= shown


def test_the_page_lists_what_exists(existing: tuple[set[str], set[str]]) -> None:
    names, labels = existing
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in names}
    documented = set(NAME.findall(PAGE.read_text()))
    assert families <= documented
    assert documented <= families | labels


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([\w.-]+)\)", PAGE.read_text()):
        assert (Path(PAGE.parent) / target).is_file(), target
