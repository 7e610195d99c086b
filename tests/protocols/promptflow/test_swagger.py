from pathlib import Path
from typing import Any

from tests.support.flows import client_of, write_chat_flow, write_flow
from tests.support.score import ECHO, TOOL


async def swagger_of(flow: Path) -> dict[str, Any]:
    async with client_of(flow) as client:
        response = await client.get("/swagger.json")
    assert response.status_code == 200
    return dict(response.json())


async def test_extension_keys_name_the_chat_fields(tmp_path: Path) -> None:
    document = await swagger_of(write_chat_flow(tmp_path, "http://127.0.0.1:9/v1"))
    assert document["openapi"] == "3.0.0"
    assert document["info"] == {
        "title": "test",
        "version": "1.0.0",
        "x-flow-name": "test",
        "x-chat-input": "question",
        "x-flow-type": "chat",
        "x-chat-history": "chat_history",
        "x-chat-output": "answer",
    }
    assert set(document["paths"]) == {"/score", "/feedback"}
    body = document["paths"]["/score"]["post"]["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"]["schema"] == {
        "type": "object",
        "properties": {"question": {"type": "string"}, "chat_history": {"type": "array", "items": {}, "default": []}},
        "required": ["question"],
    }
    answer = document["paths"]["/score"]["post"]["responses"]["200"]["content"]
    assert answer["application/json"]["schema"]["properties"] == {"answer": {"type": "string"}}
    assert "text/event-stream" in answer


async def test_every_type_has_its_schema(tmp_path: Path) -> None:
    types = ["int", "double", "bool", "string", "secret", "list", "object", "file_path"]
    inputs = "".join(f"  {kind}_: {{type: {kind}, description: a {kind}}}\n" for kind in types)
    dag = ECHO.replace("inputs:\n", f"inputs:\n{inputs}", 1).replace(
        "nodes:", '  hidden: {type: string, reference: "${echo.output}", evaluation_only: true}\nnodes:', 1
    )
    document = await swagger_of(write_flow(tmp_path, dag, {"echo.py": TOOL + "def echo(text): return text"}))
    assert document["info"] == {"title": "test", "version": "1.0.0", "x-flow-name": "test"}
    post = document["paths"]["/score"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert {name: one["type"] for name, one in schema["properties"].items()} == {
        "int_": "integer",
        "double_": "number",
        "bool_": "boolean",
        "string_": "string",
        "secret_": "string",
        "list_": "array",
        "object_": "object",
        "file_path_": "string",
        "text": "string",
    }
    assert schema["properties"]["int_"]["description"] == "a int"
    assert schema["required"] == list(schema["properties"])
    assert list(post["responses"]["200"]["content"]["application/json"]["schema"]["properties"]) == ["out"]
