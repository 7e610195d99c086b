"""Runs the commands of `docs/history.md`, in order, against the packaged flow."""

import re
from pathlib import Path

import pytest

from flowpod.api.native.sessions import Sessions
from flowpod.settings import Settings
from flowpod.storage.dialects import dialect_of
from tests.support.documents import check_against, examples
from tests.support.flows import service_of
from tests.support.serving import ROOT, serving

PAGE = ROOT / "docs" / "history.md"


@pytest.mark.needs("curl")
def test_every_curl_prints_what_is_shown(tmp_path: Path) -> None:
    with serving(ROOT / "flow", tmp_path) as served:
        for example in examples(PAGE, "curl"):
            check_against(example, served.url)


async def test_every_endpoint_is_on_the_page(tmp_path: Path) -> None:
    text = PAGE.read_text()
    async with service_of(ROOT / "flow", data=tmp_path) as service:
        for route in Sessions(service, Settings()).routes():
            for method in (route.methods or set()) - {"HEAD"}:
                path = re.escape(route.path.replace("{session_id}", "ID"))
                assert re.search(rf"`{method}(`, `\w+)? {path}\b|`\w+`, `{method} {path}\b", text), (method, path)


@pytest.mark.parametrize("mode", re.findall(r"`ssl_mode=(\w+)`", PAGE.read_text()))
def test_every_tls_mode_on_the_page_is_accepted(mode: str) -> None:
    assert dialect_of(f"mysql://user@host/db?ssl_mode={mode}")
