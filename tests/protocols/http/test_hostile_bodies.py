"""Hostile but valid JSON bodies are served or rejected, and never cause an internal error."""

import json
from pathlib import Path

import pytest

from flowpod.jsonable import MAX_DEPTH
from tests.support.flows import SESSION, client_of, write_flow

KINDS = ("int", "double", "bool", "string", "secret", "list", "object", "file_path", "image", "File")
FLOW = f"""
inputs:
  q: {{type: string, default: hi, is_chat_input: true}}
  chat_history: {{type: list, is_chat_history: true}}
{"".join(f"  in_{kind}: {{type: {kind}, default: null}}" + chr(10) for kind in KINDS)}
variables:
  n: {{type: int, default: 0}}
  seen: {{type: list, default: []}}
outputs:
  answer: {{type: string, reference: "${{prompt.output}}", is_chat_output: true}}
{"".join(f"  out_{kind}: {{type: {kind}, reference: '${{inputs.in_{kind}}}'}}" + chr(10) for kind in KINDS)}
nodes:
- {{name: prompt, type: prompt, source: {{path: p.jinja2}}, inputs: {{q: "${{inputs.q}}", list: "${{inputs.in_list}}"}}}}
- name: keep
  type: assign
  inputs: {{list: "${{inputs.in_list}}", int: "${{inputs.in_int}}"}}
  assignments: [{{variable: session.seen, input: list}}, {{variable: session.n, input: int}}]
"""
IMAGE = '{"data:image/png;base64": "aGk="}'
DEPTHS = (MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 500, 1000, 1015)
NESTED = [
    opening * depth + leaf + closing * depth
    for depth in DEPTHS
    for opening, closing, leaf in (("[", "]", "1"), ('{"a":', "}", "1"), ("[", "]", IMAGE))
]
VALUES = [
    *NESTED,
    *(json.dumps(text) for text in NESTED),
    json.dumps("[" * 100_000),
    *("9" * 25, "9" * 5000, "1e300", "-1e300", "1e999", str(2**64), "NaN", "-0.0"),
    *('"1e999999"', '"nan"', '"inf"', '"[NaN]"', '"1_000"', f'"{"9" * 5000}"', f'"[{"9" * 5000}]"'),
    *(r'"\ud800"', r'"[\"\\ud800\"]"', r'"{\"\\ud800\": 1}"', r'"\u0000"', r'{"\u0000": 1}', '{"a": 1, "a": 2}'),
    *('{"": ""}', '{"__proto__": {"x": 1}, "__class__": 1}', '[1, "x", {"inputs": 3}, {"inputs": {}, "outputs": []}]'),
    json.dumps(dict.fromkeys(map(str, range(100_000)))),
    *(
        '{"data:image/png;path": "/etc/passwd"}',
        '{"data:image/png;url": "http://[::1"}',
        r'{"data:image/png;base64": "\u00e9"}',
    ),
    *('{"source_uri": "http://[::1"}', '{"source_uri": "//[x"}', r'{"source_uri": "/a\u0000b"}', '{"source_uri": [1]}'),
    json.dumps({"source_uri": "/tmp/" + "a" * 5000}),
]
BODIES = {
    "/": "{%s: %s}",
    "/run": '{"inputs": {%s: %s}, "stream": false, "response_config": {"include_node_output": true}}',
    "/score": "{%s: %s}",
    "/v1/chat/completions": '{"messages": [{"role": "user", "content": "x"}], "inputs": {%s: %s}}',
    "/api/v1/apps/a/completion": '{"input": {"prompt": "x", "biz_params": {%s: %s}}}',
}
PLACES = {
    "/api/v1/apps/a/completion": (
        '{"input": %s}',
        '{"input": {"prompt": %s}}',
        '{"input": {"prompt": "x", "session_id": %s}}',
        '{"input": {"prompt": "x", "history": [%s]}}',
        '{"input": {"prompt": "x", "image_list": [%s]}}',
        '{"input": {"prompt": "x", "file_list": [%s]}}',
        '{"input": {"prompt": "x", "biz_params": {"user_defined_params": {"p": %s}}}}',
        '{"input": {"prompt": "x"}, "parameters": {"rag_options": %s}}',
        '{"input": {"prompt": "x"}, "parameters": {"has_thoughts": true, "max_tokens": %s}}',
        '{"input": {"messages": %s}}',
        '{"input": {"messages": [{"role": "user", "content": %s}]}}',
        '{"input": {"messages": [{"role": "user", "content": [%s]}]}}',
        '{"input": {"messages": [{"role": "user", "content": [{"text": %s}, {"image": %s}]}]}}',
    ),
    "/": ("%s",),
    "/run": ("%s", '{"inputs": %s}', '{"stream": %s}', '{"response_config": %s}'),
    "/score": ("%s",),
    "/v1/chat/completions": (
        '{"messages": %s}',
        '{"messages": [{"role": "user", "content": "x"}], "inputs": %s}',
        '{"messages": [{"role": "user", "content": "x"}], "user": %s}',
        '{"messages": [{"role": "user", "content": "x"}], "temperature": %s}',
        '{"messages": [{"role": "user", "content": "x"}], "max_tokens": %s}',
        '{"messages": [{"role": "user", "content": %s}]}',
        '{"messages": [{"role": %s, "content": "x"}]}',
        '{"messages": [{"role": "user", "content": [%s]}]}',
        '{"messages": [{"role": "user", "content": [{"type": %s}]}]}',
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": %s}]}]}',
        '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": %s}]}]}',
        '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": %s}}]}]}',
    ),
}


@pytest.mark.parametrize("path", BODIES)
async def test_no_value_causes_an_internal_error(tmp_path: Path, path: str) -> None:
    names = ["q", "chat_history", *(f"in_{kind}" for kind in KINDS), "", "__proto__"]
    bodies = [BODIES[path] % (json.dumps(name), value) for name in names for value in VALUES]
    bodies += [place.replace("%s", value) for place in PLACES[path] for value in VALUES]
    async with client_of(
        write_flow(tmp_path / "flow", FLOW, {"p.jinja2": "{{ q }} {{ list }}"}), file_mounts=(Path("/tmp"),)
    ) as client:
        for body in bodies:
            response = await client.post(path, content=body)
            assert response.status_code in (200, 400), f"{response.text[:200]} {body[:200]}"


async def test_no_session_variable_causes_an_internal_error_or_breaks_its_session(tmp_path: Path) -> None:
    path = f"/chat/sessions/{SESSION}/variables"
    async with client_of(write_flow(tmp_path / "flow", FLOW, {"p.jinja2": ""}), data=tmp_path) as client:
        for value in ["0", *VALUES]:
            assert (await client.post("/", json={}, headers={"Chat-Session-Id": SESSION})).status_code == 200
            for name in ("n", "seen", "__proto__"):
                response = await client.patch(path, content=f'{{"{name}": {value}}}')
                assert response.status_code in (200, 400), f"{response.text[:200]} {value[:200]}"
            kept = (await client.get(path)).json()
            assert isinstance(kept["n"], int | None)
            assert isinstance(kept["seen"], list | None)
