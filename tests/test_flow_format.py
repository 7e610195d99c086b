"""Every example of docs/flow-format.md does what the page says."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from runtime.flow.document import flow_json_schema
from runtime.nodes import KINDS
from tests.support.serving import ROOT, environment, run_command

PAGE = (ROOT / "docs" / "flow-format.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, str, str]]:
    """Return each command with the flow that it is run on and what it prints."""
    found, flow = [], ""
    for match in BLOCK.finditer(PAGE):
        if match[1] == "yaml":
            flow = match[2]
        elif match[1] == "console":
            command, _, printed = match[2].partition("\n")
            found.append((flow, command.removeprefix("$ flowpod "), printed))
    return found


@pytest.mark.parametrize(("flow", "command", "printed"), examples())
def test_example_prints_what_the_page_shows(tmp_path: Path, flow: str, command: str, printed: str) -> None:
    (tmp_path / "flow.dag.yaml").write_text(flow)
    arguments = shlex.split(command.replace("example", str(tmp_path), 1))
    done = run_command(*arguments, env=environment(tmp_path))
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


def test_every_flow_of_the_page_has_an_example() -> None:
    flows = [match[2] for match in BLOCK.finditer(PAGE) if match[1] == "yaml"]
    assert len(flows) == 8
    assert {flow for flow, _, _ in examples()} == set(flows)
    assert all(yaml.safe_load(flow)["nodes"] for flow in flows)


def test_every_key_and_kind_is_on_the_page() -> None:
    definitions = flow_json_schema()["$defs"]
    keys = {key for part in definitions.values() for key in part["properties"]}
    missing = {key for key in keys if not re.search(rf"\b{re.escape(key)}\b", PAGE)}
    # promptflow's own keys that say nothing to Flowpod.
    assert missing <= {
        "enum",
        "evaluation_only",
        "module",
        "provider",
        "api",
        "tool",
        "enable_cache",
        "use_variants",
        "aggregation",
    }
    assert all(f"`{kind}`" in PAGE for kind in KINDS)
