"""The OpenAPI document of the service, and Swagger UI."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowpod.serving.app import routes_of
from flowpod.settings import Settings
from tests.support.flows import client_of, service_of, write_flow

DAG = """
display_name: Weather <b>bot</b>
description: Knows the weather.
inputs:
  city: {type: string, is_chat_input: true, description: "Where?"}
  days: {type: int, default: 3}
  key: {type: secret, default: hunter2}
  chat_history: {type: list, is_chat_history: true}
  picture: {type: image}
outputs:
  answer: {type: string, reference: "${reply.output}", is_chat_output: true}
  facts: {type: object, reference: {days: "${inputs.days}"}}
variables:
  seen: {type: int, default: 0}
nodes:
- {name: reply, type: template, template: "Sun in {{ city }}", inputs: {city: "${inputs.city}"}}
"""
PLAIN = """
inputs:
  text: {type: string}
outputs:
  out: {reference: "${n.output}"}
nodes:
- {name: n, type: template, template: "{{ text }}", inputs: {text: "${inputs.text}"}}
"""


async def document_of(folder: Path, dag: str = DAG, **options: Any) -> dict[str, Any]:
    async with client_of(write_flow(folder / "flow", dag), **options) as client:
        response = await client.get("/openapi.json")
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, item in node.items():
            if key == "$ref":
                yield item
            yield from references(item)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for item in node.values():
            yield from texts(item)
    elif isinstance(node, list):
        for item in node:
            yield from texts(item)


async def test_the_document_describes_exactly_the_endpoints(tmp_path: Path) -> None:
    document = await document_of(tmp_path, data=tmp_path)
    described = {
        (path, method.upper()) for path, item in document["paths"].items() for method in item if method != "parameters"
    }
    async with service_of(tmp_path / "flow", data=tmp_path) as service:
        routes = routes_of(service, Settings())
    served = {(route.path, method) for route in routes for method in route.methods or () if method != "HEAD"}
    assert served - described == {("/docs", "GET"), ("/docs/{name}", "GET")}
    assert described - served == set()


async def test_references_resolve_and_placeholders_are_replaced(tmp_path: Path) -> None:
    document = await document_of(tmp_path, data=tmp_path)
    for reference in references(document):
        found = document
        for key in reference.removeprefix("#/").split("/"):
            found = found[key]
    assert not [text for text in texts(document) if text.startswith("<") and text.endswith(">")]


async def test_the_flows_own_inputs_and_outputs_are_schemas(tmp_path: Path) -> None:
    document = await document_of(tmp_path, data=tmp_path)
    schemas = document["components"]["schemas"]
    assert document["info"]["title"] == "Weather <b>bot</b>"
    assert schemas["Inputs"]["required"] == ["city", "picture"]
    assert schemas["Inputs"]["properties"]["city"] == {"type": "string", "description": "Where?"}
    assert schemas["Inputs"]["properties"]["days"] == {"type": "integer", "default": 3, "nullable": True}
    assert list(schemas["FurtherInputs"]["properties"]) == ["days", "key", "chat_history", "picture"]
    assert list(schemas["Outputs"]["properties"]) == ["answer", "facts"]
    assert schemas["Variables"]["properties"] == {"seen": {"type": "integer", "nullable": True}}


@pytest.mark.parametrize("dag", [DAG, PLAIN], ids=["chat", "plain"])
async def test_every_example_works(tmp_path: Path, dag: str) -> None:
    document = await document_of(tmp_path, dag, data=tmp_path)
    async with client_of(tmp_path / "flow", data=tmp_path) as client:
        tried = 0
        for path, item in document["paths"].items():
            for method, operation in item.items():
                content = operation.get("requestBody", {}).get("content", {}) if method != "parameters" else {}
                if "example" in content.get("application/json", {}):
                    response = await client.request(method, path, json=content["application/json"]["example"])
                    assert response.status_code == 200, (path, response.text)
                    tried += 1
    assert tried == (9 if dag == DAG else 4)


async def test_endpoints_that_the_flow_does_not_have_are_not_described(tmp_path: Path) -> None:
    plain = await document_of(tmp_path / "plain", PLAIN, data=tmp_path)
    off = await document_of(tmp_path / "off")
    assert not [path for path in plain["paths"] if path.startswith(("/v1/", "/chat/"))]
    assert not [path for path in off["paths"] if path.startswith("/chat/")]
    assert "/v1/chat/completions" in off["paths"]


async def test_every_response_has_a_request_id(tmp_path: Path) -> None:
    document = await document_of(tmp_path, data=tmp_path)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, response in operation["responses"].items() if method != "parameters" else ():
                if "$ref" in response:
                    response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
                assert "X-Request-Id" in response["headers"], (path, method, status)


@pytest.mark.parametrize("tokens", [(), ("t",)])
async def test_a_token_is_described_where_one_is_needed(tmp_path: Path, tokens: tuple[str, ...]) -> None:
    document = await document_of(tmp_path, tokens=tokens)
    assert ("security" in document) is ("securitySchemes" in document["components"]) is bool(tokens)
    assert ("401" in document["paths"]["/run"]["post"]["responses"]) is bool(tokens)
    assert ("security" in document["paths"]["/healthz"]["get"]) is bool(tokens)


async def test_the_docs_need_no_token_and_contain_no_secret(tmp_path: Path) -> None:
    async with client_of(write_flow(tmp_path / "flow", DAG), tokens=("token-1",)) as client:
        document = await client.get("/openapi.json")
        page = await client.get("/docs")
        script = await client.get("/docs/swagger-ui-bundle.js")
        style = await client.get("/docs/swagger-ui.css")
        missing = await client.get("/docs/index.html")
    assert [r.status_code for r in (document, page, script, style, missing)] == [200, 200, 200, 200, 404]
    assert "<title>test</title>" in page.text
    assert len(script.content) > 500_000
    for secret in ("hunter2", "token-1"):
        assert secret not in document.text + page.text


async def test_a_setting_turns_the_docs_off(tmp_path: Path) -> None:
    async with client_of(write_flow(tmp_path / "flow", DAG), docs="off") as client:
        assert [(await client.get(path)).status_code for path in ("/openapi.json", "/docs")] == [404, 404]
