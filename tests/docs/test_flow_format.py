"""Every example of docs/flow-format.md does what the page says."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from flowpod.flow.document.flow import flow_json_schema
from flowpod.nodes import KINDS

from tests.support.serving import ROOT, environment, run_command

PAGE = (ROOT / "docs" / "flow-format.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


FILE = re.compile(r"\{?# (\S+)(?: #\})?\n")


def examples() -> list[tuple[dict[str, str], str, str]]:
    """Return each command with the files of the flow that it is run on, and what it prints."""
    found, flow = list[tuple[dict[str, str], str, str]](), dict[str, str]()
    for match in BLOCK.finditer(PAGE):
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
    arguments = shlex.split(command.replace("example", str(tmp_path), 1))
    done = run_command(*arguments, env=environment(tmp_path))
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


def test_every_flow_of_the_page_has_an_example() -> None:
    flows = [match[2] for match in BLOCK.finditer(PAGE) if match[1] == "yaml"]
    assert len(flows) == 11
    assert {flow["flow.dag.yaml"] for flow, _, _ in examples()} == set(flows)
    assert all(yaml.safe_load(flow)["nodes"] for flow in flows)


def test_every_key_and_kind_is_on_the_page() -> None:
    schema = flow_json_schema(KINDS)
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part["properties"]}
    missing = {key for key in keys if not re.search(rf"\b{re.escape(key.lstrip('$'))}\b", PAGE)}
    assert missing == set()
    assert all(f"`{kind}`" in PAGE for kind in KINDS)
