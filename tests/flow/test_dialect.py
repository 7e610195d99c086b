"""What promptflow's flows say beside their nodes: variants, aggregation, environment variables, includes."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from flowpod.errors import FlowProblems
from flowpod.flow.document.flow import flow_json_schema
from flowpod.flow.load.includes import assemble, includes_of
from flowpod.flow.load.loader import load_flow
from flowpod.flow.model import Flow
from flowpod.nodes import KINDS
from tests.support.flows import event_lines, run_flow, write_flow


def load(
    tmp_path: Path, dag: str, environ: Mapping[str, str] | None = None, connections: str = ""
) -> tuple[Flow, list[str]]:
    folder = write_flow(tmp_path / "flow", dag, {"a.py": "", "connections.yaml": connections})
    try:
        loaded = load_flow(folder, KINDS, environ or {})
    except FlowProblems as error:
        raise AssertionError(str(error)) from error
    return loaded.flow, [
        f"{'' if problem.severity == 'error' else problem.severity + ' '}{problem}"
        for problem in [*loaded.source.problems, *loaded.other_problems]
    ]


VARIANTS = """
nodes:
- name: n
  use_variants: true
node_variants:
  n:
    default_variant_id: v1
    variants:
      v0: {node: {type: llm, source: {path: nothing.jinja2}, connection: none}}
      v1:
        description: the one
        node:
          type: python
          source: {type: code, path: a.py}
          inputs:
            x: 5
"""


def test_default_variant_is_the_node(tmp_path: Path) -> None:
    flow, problems = load(tmp_path, VARIANTS)
    assert problems == []
    assert (flow.nodes["n"].type, flow.nodes["n"].inputs) == ("python", {"x": 5})


def test_problem_in_a_variant_is_named_where_it_stands(tmp_path: Path) -> None:
    _, problems = load(tmp_path, VARIANTS.replace("x: 5", 'x: "${gone.output}"'))
    assert problems == [
        (
            "flow.dag.yaml:15: node_variants.n.variants.v1.node.inputs.x: ${gone.output}: there is no node 'gone'; "
            "there are n"
        )
    ]


INNER_VARIANTS = VARIANTS.replace(
    "- name: n\n  use_variants: true\n",
    """
- name: each
  type: batch
  inputs: {items: [1]}
  nodes:
  - {name: again, type: loop, max_rounds: 1, nodes: [{name: n, use_variants: true}]}
""",
)


def test_node_inside_a_batch_or_a_loop_may_have_variants(tmp_path: Path) -> None:
    flow, problems = load(tmp_path, INNER_VARIANTS)
    assert problems == []
    assert flow.nodes["each"].body[0].body[0].inputs == {"x": 5}
    _, problems = load(tmp_path, INNER_VARIANTS.replace("x: 5", 'x: "${gone.output}"'))
    assert [problem.partition(": ${gone.output}")[0] for problem in problems] == [
        "flow.dag.yaml:19: node_variants.n.variants.v1.node.inputs.x"
    ]


def test_node_that_does_not_ask_for_variants_is_itself(tmp_path: Path) -> None:
    dag = VARIANTS.replace("use_variants: true", "type: python\n  source: {path: a.py}\n  use_variants: false")
    assert load(tmp_path, dag)[0].nodes["n"].inputs == {}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "default_variant_id: v1",
            "default_variant_id: v9",
            "6: node_variants.n.default_variant_id: there is no variant 'v9' with a node; there are v0, v1",
        ),
        ("default_variant_id: v1", "x: 1", "5: node_variants.n.default_variant_id: there is no variant None"),
        (
            "  n:\n    default",
            "  m:\n    default",
            "3: nodes[0].use_variants: node 'n' has no variants under node_variants",
        ),
    ],
)
def test_missing_variant_is_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    folder = write_flow(tmp_path / "flow", VARIANTS.replace(old, new), {"a.py": ""})
    with pytest.raises(FlowProblems) as caught:
        load_flow(folder, KINDS, {})
    assert str(caught.value.problems[0]).startswith(f"flow.dag.yaml:{problem}")


AGGREGATION = """
outputs:
  one: {type: string, reference: "${row.output}"}
  sum: {type: string, reference: "${total.output}"}
  more: {type: string, reference: "${behind.output.x}"}
nodes:
- {name: row, type: python, source: {path: a.py}, inputs: {x: 1}}
- {name: behind, type: python, source: {path: gone.py}, inputs: {x: "${total.output}"}}
- {name: total, type: python, source: {path: b.py}, inputs: {x: "${row.output}"}, aggregation: true}
"""


async def test_aggregation_is_left_out_with_all_that_needs_it(tmp_path: Path) -> None:
    files = {"a.py": "def invoke(x): return x + 1", "b.py": "import no_such_package", "gone.py": ""}
    folder = write_flow(tmp_path, AGGREGATION, files)
    loaded = load_flow(folder, KINDS, {})
    flow, source = loaded.flow, loaded.source
    assert (list(flow.nodes), list(flow.outputs)) == (["row"], ["one"])
    assert [(problem.severity, str(problem)) for problem in source.problems] == [
        (
            "warning",
            (
                "flow.dag.yaml:8: nodes[2].aggregation: node 'total' aggregates the rows of a batch run and is not "
                "served; neither are nodes behind and outputs sum, more"
            ),
        )
    ]
    events = await run_flow(folder, {})
    assert event_lines(events) == [
        "started",
        "row Running",
        "row Completed",
        "one whole 2 Finished",
        "terminated Completed",
    ]


def test_aggregation_inside_a_batch_or_a_loop_is_refused(tmp_path: Path) -> None:
    dag = """
    nodes:
    - name: each
      type: batch
      inputs: {items: [1]}
      nodes:
      - name: again
        type: loop
        max_rounds: 1
        nodes: [{name: n, type: python, source: {path: a.py}, aggregation: true}]
    """
    assert load(tmp_path, dag)[1] == [
        "flow.dag.yaml:9: nodes[0].nodes[0].nodes[0].aggregation: an aggregation node cannot be inside another node"
    ]


def test_flow_of_aggregation_alone_has_nothing_to_serve(tmp_path: Path) -> None:
    _, problems = load(tmp_path, "nodes: [{name: n, type: python, source: {path: a.py}, aggregation: true}]")
    assert problems[-1] == (
        "flow.dag.yaml:1: nodes: there is nothing to serve: every node aggregates a batch run or depends on a node that does"
    )


NODES = "\nnodes: [{name: n, type: python, source: {path: a.py}}]"


@pytest.mark.parametrize(
    ("value", "environ", "expected"),
    [
        ("text", {}, "text"),
        ("5", {}, "5"),
        ("0.5", {}, "0.5"),
        ("true", {}, "True"),
        ("[1, a]", {}, '[1, "a"]'),
        ("{a: {b: 1}}", {}, '{"a": {"b": 1}}'),
        ("text", {"A": "set"}, "set"),
        ("'${mine.api_key}'", {"KEY": "k"}, "k"),
        ("'${own.url}'", {}, "http://u"),
        ("'${own.secret}'", {"KEY": "k"}, "k"),
        ("text", {"A": "${mine.api_key}", "KEY": "k"}, "k"),
        ("'x ${mine.api_key}'", {"KEY": "k"}, "x ${mine.api_key}"),
    ],
)
def test_environment_variable_is_text(tmp_path: Path, value: str, environ: dict[str, str], expected: str) -> None:
    connections = (
        "mine: {type: serp, api_key: '${env:KEY}'}\n"
        "own: {type: custom, configs: {url: 'http://u'}, secrets: {secret: '${env:KEY}'}}"
    )
    flow, problems = load(tmp_path, f"environment_variables: {{A: {value}}}{NODES}", environ, connections)
    assert [problem for problem in problems if not problem.startswith("environment ")] == []
    assert flow.environment == {"A": expected}
    assert "environment=" not in repr(flow)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("'${mine.url}'", "flow.dag.yaml:1: environment_variables.A: ${mine.url}: connection 'mine' has no 'url'"),
        (
            "'${mine.api_key}'",
            "environment flow.dag.yaml:1: environment_variables.A: connection 'mine': api_key: the environment variable KEY is not set",
        ),
    ],
)
def test_environment_variable_that_does_not_resolve_is_named(tmp_path: Path, value: str, problem: str) -> None:
    connections = "mine: {type: serp, api_key: '${env:KEY}'}"
    _, problems = load(tmp_path, f"environment_variables: {{A: {value}}}{NODES}", {}, connections)
    assert problems == [problem]


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_includes_are_laid_beside_the_flows_own_files(tmp_path: Path) -> None:
    dag = f"additional_includes: [../shared/one.py, ../shared/more/, ../nothing, ../flow/../shared/a.py]{NODES}"
    flow = write_flow(
        tmp_path / "flow", dag, {"a.py": "own = 1", "sub/b.py": "", "__pycache__/x.pyc": "", "../shared/one.py": ""}
    )
    write_flow(tmp_path / "shared", "", {"a.py": "included = 1", "more/deep/two.py": ""})
    (flow / "link.py").symlink_to(tmp_path / "shared/one.py")
    (flow / "dead.py").symlink_to(tmp_path / "nowhere")
    before = tree(flow)
    target = tmp_path / "copy"
    assemble(flow, includes_of(flow), target)
    assert tree(target) == ["a.py", "flow.dag.yaml", "link.py", "more/deep/two.py", "one.py", "sub/b.py"]
    assert (target / "a.py").read_text() == "included = 1"
    assert tree(flow) == before


@pytest.mark.parametrize("dag", ["nodes: []", "additional_includes:", "additional_includes: x", "- a", "a: [", "a: 1"])
def test_flow_without_includes_includes_nothing(tmp_path: Path, dag: str) -> None:
    assert includes_of(write_flow(tmp_path, dag)) == []
    assert includes_of(tmp_path / "nowhere") == []


def test_assembled_copy_is_what_is_served(tmp_path: Path) -> None:
    dag = "additional_includes: [../shared.py]\nnodes: [{name: n, type: python, source: {path: shared.py}}]"
    flow = write_flow(
        tmp_path / "flow", dag, {"../shared.py": "def invoke(): ...", "connections.yaml": "c: {type: serp}"}
    )
    assemble(flow, includes_of(flow), tmp_path / "copy")
    loaded = load_flow(flow, KINDS, {}, assembled=tmp_path / "copy")
    assert (loaded.source.problems, loaded.other_problems) == ([], [])
    assert loaded.flow.folder == (tmp_path / "copy").resolve()
    assert "c" in loaded.flow.connections


@pytest.mark.parametrize("place", ["", "BatchOptions", "LoopOptions"])
def test_schema_takes_a_node_of_variants(place: str) -> None:
    schema = flow_json_schema(KINDS)
    nodes = (schema["$defs"][place] if place else schema)["properties"]["nodes"]["items"]["anyOf"]
    assert {"$ref": "#/$defs/LLMOptions"} in nodes
    assert {"$ref": "#/$defs/VariantNode"} in nodes
    variant = schema["$defs"]["VariantNode"]
    assert variant["required"] == ["name", "use_variants"]
    assert variant["properties"]["use_variants"]["const"] is True
