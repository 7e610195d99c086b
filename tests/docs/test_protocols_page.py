"""`docs/protocols.md` cannot lie: its commands are run against the packaged flow."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flowpod.api.native.runs import Runs
from flowpod.api.openai.responses import Responses
from flowpod.settings import Settings
from tests.support.documents import Example, check_against, examples
from tests.support.flows import service_of
from tests.support.serving import ROOT, serving

PAGE = ROOT / "docs" / "protocols.md"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(ROOT / "flow", tmp_path_factory.mktemp("protocols")) as served:
        yield served.url


@pytest.mark.needs("curl")
@pytest.mark.parametrize("example", examples(PAGE, "curl"), ids=str)
def test_every_curl_prints_what_is_shown(example: Example, url: str) -> None:
    check_against(example, url)


def test_every_protocol_has_its_examples() -> None:
    text = PAGE.read_text()
    for heading in ("Simple mode", "Complete mode", "OpenAI", "Responses", "DashScope", "promptflow"):
        section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        for row in ("request", "answer", "stream", "errors", "sessions"):
            assert re.search(rf"^\| ({row}|key of the {row}) \|", section, re.MULTILINE), (heading, row)
        assert section.count("```sh\ncurl") >= 2, heading


def test_every_path_on_the_page_is_served(url: str) -> None:
    named = set(re.findall(r"`(?:GET|POST) (/[\w/.]*)`", PAGE.read_text()))
    assert named
    for path in named:
        assert httpx.get(f"{url}{path}").status_code in (200, 405), path


async def test_every_endpoint_of_recorded_runs_is_on_the_page(tmp_path: Path) -> None:
    text = PAGE.read_text()
    async with service_of(ROOT / "flow", data=tmp_path) as service:
        for endpoints in (Runs(service, Settings()), Responses(service, Settings())):
            for route in endpoints.routes():
                path = route.path.replace("{run_id}", "{id}").replace("{response_id}", "{id}")
                for method in (route.methods or set()) - {"HEAD"}:
                    assert f"`{method} {path}`" in text, (method, path)
