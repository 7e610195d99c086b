"""The chart: rendering it with the real Helm, and the table of its values in helm/README.md."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.serving import ROOT

CHART = ROOT / "helm"
PROFILES = sorted((ROOT / "tests" / "helm" / "profiles").glob("*.yaml"))
README = CHART / "README.md"
KUBERNETES = "1.33.0"
_BEGIN, _END = "<!-- values -->\n", "<!-- end of values -->\n"


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["helm", *arguments], capture_output=True, text=True)


def rendered(*arguments: str, release: str = "my", namespace: str = "chat") -> str:
    """Return what the chart makes with these options of `helm template`."""
    done = helm("template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBERNETES, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered_profile(profile: Path) -> str:
    """Return what a profile renders to, its random token made the same."""
    return re.sub(r"(?m)^(  tokens?): [A-Za-z0-9+/=]+$", r"\1: UkFORE9N", rendered("--values", str(profile)))


def golden(profile: Path) -> Path:
    """Return the file with what a profile rendered to when somebody last looked at it."""
    return profile.parent.parent / "goldens" / profile.name


def objects(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def documented_values() -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, comment) of every value with a comment above it; raises ValueError for one that has none."""
    text = (CHART / "values.yaml").read_text()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from _documented(root, "", text.splitlines(), yaml.safe_load(text))


def _documented(node: yaml.MappingNode, prefix: str, lines: list[str], values: Any) -> Iterator[tuple[str, str, str]]:
    for key, child in node.value:
        name, value, comment = f"{prefix}{key.value}", values[key.value], _comment(lines, key.start_mark.line)
        if comment:
            yield name, json.dumps(value), comment
        elif isinstance(child, yaml.MappingNode) and child.value:
            yield from _documented(child, f"{name}.", lines, value)
        else:
            raise ValueError(f"values.yaml:{key.start_mark.line + 1}: {name} has no comment above it")


def _comment(lines: list[str], line: int) -> str:
    found: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].strip().lstrip("# "))
    return " ".join(found)


def with_values(readme: str) -> str:
    """Return the chart's README with the table of its values as it should be."""
    rows = "".join(f"| `{name}` | `{default}` | {comment} |\n" for name, default, comment in documented_values())
    before, rest = readme.split(_BEGIN)
    return f"{before}{_BEGIN}| value | default | meaning |\n|---|---|---|\n{rows}{_END}{rest.split(_END)[1]}"


if __name__ == "__main__":
    README.write_text(with_values(README.read_text()))
    for one in PROFILES:
        golden(one).write_text(rendered_profile(one))
