"""Every example of docs/flow-format.md and docs/nodes does what its page shows."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from flowpod.cli.kinds import kinds_markdown
from flowpod.flow.document.base import NodeOptions, PromptFlowOptions
from flowpod.flow.document.flow import flow_json_schema
from flowpod.nodes import KINDS
from tests.support.serving import ROOT, environment, run_command

DOCS = ROOT / "docs"
FORMAT = DOCS / "flow-format.md"
PAGES = [FORMAT, *(DOCS / "nodes" / f"{kind}.md" for kind in KINDS)]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\{?# (\S+)(?: #\})?\n")


def examples() -> list[tuple[dict[str, str], str, str]]:
    """Return each command with the files of its flow and its output."""
    found, flow = list[tuple[dict[str, str], str, str]](), dict[str, str]()
    for match in (match for page in PAGES for match in BLOCK.finditer(page.read_text())):
        if match[1] == "yaml":
            flow = {"flow.dag.yaml": match[2]}
        elif match[1] in ("python", "jinja"):  # whose first line names the file
            name = FILE.match(match[2])
            assert name is not None
            flow[name[1]] = match[2]
        elif match[1] == "console":
            command, _, printed = match[2].partition("\n")
            found.append((flow, command.removeprefix("$ flowpod "), printed))
    return found


@pytest.mark.parametrize(("flow", "command", "printed"), examples())
def test_example_prints_what_the_page_shows(tmp_path: Path, flow: dict[str, str], command: str, printed: str) -> None:
    for name, text in flow.items():
        (tmp_path / name).write_text(text)
    done = run_command(*shlex.split(command.replace("example", str(tmp_path), 1)), env=environment(tmp_path))
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_page_with_its_keys_and_an_example(kind: str) -> None:
    page = (DOCS / "nodes" / f"{kind}.md").read_text()
    nodes = [node for match in BLOCK.finditer(page) if match[1] == "yaml" for node in yaml.safe_load(match[2])["nodes"]]
    assert kind in {node["type"] for node in nodes}
    shared = NodeOptions.model_fields.keys() | PromptFlowOptions.model_fields.keys()
    keys = KINDS[kind].options.model_fields.keys() - shared
    assert {key for key in keys if f"`{key}" not in page} == set()


def test_every_key_of_the_file_is_documented() -> None:
    schema, text = flow_json_schema(KINDS), "".join(page.read_text() for page in PAGES)
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part["properties"]}
    assert {key for key in keys if not re.search(rf"\b{re.escape(key.lstrip('$'))}\b", text)} == set()


def test_the_index_of_kinds_is_up_to_date() -> None:
    assert (DOCS / "nodes" / "README.md").read_text() == kinds_markdown()
    assert run_command("kinds").stdout == kinds_markdown()
