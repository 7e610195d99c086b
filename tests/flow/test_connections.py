from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

from flowpod.flow.load.connections import OFFLINE, load_connections
from flowpod.flow.model import Connection


def load(
    tmp_path: Path, text: str, environ: Mapping[str, str] | None = None
) -> tuple[dict[str, Connection], list[str]]:
    (tmp_path / "connections.yaml").write_text(dedent(text).lstrip("\n"))
    connections, problems = load_connections(tmp_path, environ or {})
    shown = [f"{'' if problem.severity == 'error' else problem.severity + ' '}{problem}" for problem in problems]
    return connections, shown


def filled(tmp_path: Path, part: str, environ: Mapping[str, str]) -> Connection:
    connections, problems = load(tmp_path, f"m: {{type: open_ai, {part}}}", environ)
    assert problems == []
    return connections["m"]


def test_flow_without_the_file_has_only_the_offline_connection(tmp_path: Path) -> None:
    assert load_connections(tmp_path, {}) == ({"offline": OFFLINE}, [])


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n"])
def test_empty_file_gives_only_the_offline_connection(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == ({"offline": OFFLINE}, [])


def test_connection_has_defaults(tmp_path: Path) -> None:
    connection = filled(tmp_path, "api_key: k", {})
    assert (connection.name, connection.type, connection.problems, connection.fallback) == ("m", "open_ai", (), "")
    assert connection.fields == {
        "api_key": "k",
        "base_url": "",
        "organization": "",
        "model": "",
        "timeout_s": 120,
        "max_retries": 2,
        "stream_usage": True,
        "api": "chat",
    }


@pytest.mark.parametrize(
    ("text", "environ", "value"),
    [
        ("plain", {}, "plain"),
        ("${env:A}", {"A": "a"}, "a"),
        ("x-${env:A}-${env:B}", {"A": "a", "B": "b"}, "x-a-b"),
        ("${env:A:-other}", {}, "other"),
        ("${env:A:-other}", {"A": ""}, "other"),
        ("${env:A:-other}", {"A": "a"}, "a"),
        ("${env:A:-}", {}, ""),
        ("${env:A:-http://h:1/v1}", {}, "http://h:1/v1"),
        ("${env:A}", {"A": "${env:B}", "B": "b"}, "${env:B}"),
        ("${A}", {"A": "a"}, "${A}"),
        ("$A", {"A": "a"}, "$A"),
    ],
)
def test_variables_are_replaced(tmp_path: Path, text: str, environ: dict[str, str], value: str) -> None:
    assert filled(tmp_path, f"organization: '{text}', api_key: k", environ).fields["organization"] == value


@pytest.mark.parametrize(
    ("part", "environ", "problems"),
    [
        ("api_key: '${env:KEY}'", {"KEY": "k"}, []),
        ("api_key: '${env:KEY}'", {}, ["api_key: the environment variable KEY is not set"]),
        ("api_key: '${env:KEY}'", {"KEY": ""}, ["api_key: the environment variable KEY is not set"]),
        ("api_key: '${env:KEY:-none}'", {}, []),
        (
            "api_key: '${env:KEY}', organization: '${env:ORG}-${env:TEAM}'",
            {},
            [
                "api_key: the environment variable KEY is not set",
                "organization: the environment variable ORG is not set",
                "organization: the environment variable TEAM is not set",
            ],
        ),
        # A server of one's own often asks for no key.
        ("api_key: '${env:KEY}', base_url: 'http://own/v1'", {}, []),
        ("api_key: '${env:KEY}', base_url: '${env:URL}'", {"URL": "http://own/v1"}, []),
        ("api_key: '${env:KEY}', base_url: '${env:URL:-https://api.openai.com/v1}'", {"URL": "http://own/v1"}, []),
        (
            "api_key: '${env:KEY}', base_url: '${env:URL:-https://api.openai.com/v1}'",
            {},
            ["api_key: the environment variable KEY is not set"],
        ),
        (
            "api_key: '${env:KEY}', base_url: '${env:URL}'",
            {},
            ["api_key: the environment variable KEY is not set", "base_url: the environment variable URL is not set"],
        ),
    ],
)
def test_unset_variable_is_a_problem(tmp_path: Path, part: str, environ: dict[str, str], problems: list[str]) -> None:
    assert filled(tmp_path, part, environ).problems == tuple(f"connection 'm': {problem}" for problem in problems)


@pytest.mark.parametrize(
    ("environ", "offline"),
    [
        ({}, True),
        ({"KEY": ""}, True),
        ({"KEY": "k"}, False),
        ({"MODEL": "m"}, False),
        ({"URL": "http://own/v1"}, False),
        ({"OTHER": "x"}, True),
    ],
)
def test_fallback_is_used_while_no_variable_is_set(tmp_path: Path, environ: dict[str, str], offline: bool) -> None:
    part = "api_key: '${env:KEY}', base_url: '${env:URL:-https://d/v1}', model: '${env:MODEL:-m}', fallback: offline"
    connection = filled(tmp_path, part, environ)
    assert connection.name == "m"
    assert (connection.type == "offline") is offline
    assert (connection.fallback == "offline") is offline


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", ["connections.yaml:1: expected a mapping of keys to values"]),
        ("m: text", ["connections.yaml:1: m: expected a mapping of keys to values"]),
        ("m: {}", ["connections.yaml:1: m.type: this key is required"]),
        ("a: {type: open_ai}\nm:\n  type: azure_open_ai", ["connections.yaml:2: m.api_base: this key is required"]),
        (
            "m:\n  type: open_ai\n  api_base: http://x\n  retries: 3",
            [
                "warning connections.yaml:3: m.api_base: unknown key, ignored",
                "warning connections.yaml:4: m.retries: unknown key, ignored",
            ],
        ),
        (
            "m:\n  type: open_ai\n  timeout_s: 0\n  max_retries: -1",
            [
                "connections.yaml:3: m.timeout_s: input should be greater than 0",
                "connections.yaml:4: m.max_retries: input should be greater than or equal to 0",
            ],
        ),
        ("m: {type: open_ai, timeout_s: .inf}", ["connections.yaml:1: m.timeout_s: input should be a finite number"]),
        (
            "m: {type: open_ai}\nm: {type: open_ai}",
            ["connections.yaml:2: m: duplicate key; YAML would use the last one"],
        ),
        ("m:\n  type: open_ai\n  fallback: n", ["connections.yaml:3: m.fallback: the only fallback is 'offline'"]),
        ("m: [", ["connections.yaml:1: not valid YAML: expected the node content, but found '<stream end>'"]),
        ("connections: {type: open_ai}", []),
        ("connections:\n  tpye: open_ai", ["connections.yaml:1: connections.type: this key is required"]),
        ("connections_of_mine:\n  typ: x", ["connections.yaml:1: connections_of_mine.type: this key is required"]),
        (
            "m: {type: open_ai}\n2: {}",
            ["connections.yaml:2: 2: a key in this mapping is not text; quote numbers, yes, no, on and off"],
        ),
    ],
)
def test_problem_has_its_file_line_and_key(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert load(tmp_path, text)[1] == expected


def test_key_is_never_in_a_problem(tmp_path: Path) -> None:
    connections, problems = load(
        tmp_path, "m: {type: open_ai, api_key: '${env:KEY}', base_url: '${env:URL}', retries: 1}", {"KEY": "sk-secret"}
    )
    assert "sk-secret" not in str([problems, connections["m"].problems])


@pytest.mark.parametrize("value", [7, True, ["a"], {"a": 1}])
def test_text_must_be_text(tmp_path: Path, value: Any) -> None:
    expected = ["connections.yaml:1: m.api_key: input should be a valid string"]
    assert load(tmp_path, f"m: {{type: open_ai, api_key: {value}}}".replace("'", ""))[1] == expected


API_KEY = "api_key: '${env:KEY}'"


@pytest.mark.parametrize(
    ("text", "kind", "fields"),
    [
        (
            "type: azure_open_ai\napi_base: https://a\nmodel: gpt",
            "azure_open_ai",
            {
                "api_base": "https://a",
                "api_type": "azure",
                "api_version": "2024-02-01",
                "auth_mode": "key",
                "model": "gpt",
            },
        ),
        (
            "type: AzureOpenAI\napi_base: https://a\napi_version: 2023-07-01",
            "azure_open_ai",
            {"api_version": "2023-07-01"},
        ),
        ("type: OpenAI\nmodule: promptflow.connections", "open_ai", {"base_url": ""}),
        ("type: serverless\napi_base: https://s", "serverless", {"api_base": "https://s"}),
        (
            "type: cognitive_search\napi_base: https://s",
            "cognitive_search",
            {"api_base": "https://s", "api_version": "2023-11-01"},
        ),
        (
            "type: azure_content_safety\nendpoint: https://s",
            "azure_content_safety",
            {"endpoint": "https://s", "api_version": "2023-10-01", "api_type": "Content Safety"},
        ),
        ("type: form_recognizer\nendpoint: https://s", "form_recognizer", {"api_type": "Form Recognizer"}),
        ("type: azure_ai_services\nendpoint: https://s", "azure_ai_services", {"endpoint": "https://s"}),
        ("type: serp", "serp", {}),
    ],
)
def test_type_has_promptflows_keys_and_defaults(tmp_path: Path, text: str, kind: str, fields: dict[str, str]) -> None:
    connections, problems = load(tmp_path, "m:\n" + indent(f"{text}\n{API_KEY}", "  "), {"KEY": "k"})
    assert problems == []
    assert connections["m"].type == kind
    assert {**fields, "api_key": "k"}.items() <= connections["m"].fields.items()
    assert load(tmp_path, "m:\n" + indent(f"{text}\n{API_KEY}", "  "))[0]["m"].problems == (
        "connection 'm': api_key: the environment variable KEY is not set",
    )


def test_custom_connection_has_configs_and_secrets(tmp_path: Path) -> None:
    text = (
        "m: {type: custom, configs: {url: '${env:URL:-http://d}', port: 8080}, secrets: {key: '${env:KEY}', pin: '1'}}"
    )
    connections, problems = load(tmp_path, text, {"KEY": "k"})
    assert problems == []
    assert connections["m"].fields["configs"] == {"url": "http://d", "port": "8080"}
    assert connections["m"].fields["secrets"] == {"key": "k", "pin": "1"}
    assert load(tmp_path, text)[0]["m"].problems == (
        "connection 'm': secrets.key: the environment variable KEY is not set",
    )


def test_placeholder_in_place_of_a_secret_is_reported(tmp_path: Path) -> None:
    text = "a: {type: open_ai, api_key: '<your-key>'}\nb: {type: custom, configs: {x: <x>}, secrets: {y: <y>}}"
    connections, _ = load(tmp_path, text)
    assert connections["a"].problems == ("connection 'a': api_key: it is the placeholder '<your-key>'",)
    assert connections["b"].problems == ("connection 'b': secrets.y: it is the placeholder '<y>'",)


def test_secrets_are_not_in_the_repr(tmp_path: Path) -> None:
    connections, _ = load(tmp_path, "m: {type: serp, api_key: '${env:KEY}'}", {"KEY": "sk-secret"})
    assert "sk-secret" not in repr(connections)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "m: {type: azure}",
            "connections.yaml:1: m.type: unknown type 'azure'; the types are open_ai, azure_open_ai, ",
        ),
        (
            "m: {type: azure_open_ai, api_base: https://a, auth_mode: meid_token}",
            "connections.yaml:1: m.auth_mode: auth_mode 'meid_token' is not supported",
        ),
        ("m: {type: custom, secrets: [a]}", "connections.yaml:1: m.secrets: expected a mapping"),
    ],
)
def test_unsupported_connection_is_reported(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = load(tmp_path, text)[1]
    assert found.startswith(problem)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


ONE = "$schema: https://example.org/SerpConnection.schema.json\nname: {name}\ntype: serp\napi_key: {key}\n"


@pytest.mark.parametrize(
    "place", ["flow/a.yaml", "flow/a.yml", "flow/connections/a.yaml", "connections/a.yml", "flow/connections.yaml"]
)
def test_file_of_one_connection_is_found(tmp_path: Path, place: str) -> None:
    write(tmp_path / "flow/flow.dag.yaml", "nodes: []")
    write(tmp_path / place, ONE.format(name="one", key="k"))
    connections, problems = load_connections(tmp_path / "flow", {})
    assert problems == []
    assert connections["one"].fields["api_key"] == "k"


@pytest.mark.parametrize(
    "text",
    ["name: f\ntype: chat\nnodes: []", "name: t\ntype: python\nfunction: f", "name: x", "- a", "a: [", "'\ud800'"],
)
def test_other_yaml_files_of_a_flow_are_ignored(tmp_path: Path, text: str) -> None:
    write(tmp_path / "flow/other.yaml", text.encode("utf-8", "replace").decode())
    assert load_connections(tmp_path / "flow", {}) == ({"offline": OFFLINE}, [])


def test_duplicate_name_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "flow/connections.yaml", "one: {type: serp, api_key: k}")
    write(tmp_path / "flow/connections/a.yaml", ONE.format(name="one", key="other"))
    _, problems = load_connections(tmp_path / "flow", {})
    assert [str(problem) for problem in problems] == [
        "connections/a.yaml:1: the connection 'one' is also defined in connections.yaml; remove one of the two"
    ]


@pytest.mark.parametrize("place", ["outside.yaml", "outside/a.yaml"])
@pytest.mark.parametrize("text", ["one: {type: serp, api_key: mine}", ONE.format(name="one", key="mine")])
def test_configured_connections_take_precedence(tmp_path: Path, place: str, text: str) -> None:
    write(tmp_path / "flow/connections.yaml", "one: {type: serp, api_key: own}\ntwo: {type: serp, api_key: own}")
    write(tmp_path / place, text)
    outside = tmp_path / place.partition("/")[0]
    connections, problems = load_connections(tmp_path / "flow", {}, outside)
    assert problems == []
    assert [connections[name].fields["api_key"] for name in ("one", "two")] == ["mine", "own"]


def test_configured_file_that_is_missing_or_invalid_is_reported_with_its_path(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    _, problems = load_connections(tmp_path, {}, missing)
    assert [str(problem) for problem in problems] == [
        f"{missing}: the file or folder of FLOWPOD_CONNECTIONS does not exist"
    ]
    wrong = write(tmp_path / "wrong.yaml", "one:\n  type: x")
    _, problems = load_connections(tmp_path, {}, wrong)
    assert str(problems[0]).startswith(f"{wrong}:2: one.type: unknown type 'x'")
