"""Files on their way: from a body into a node, out again, and through the chat history."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import SESSION, client_of, post, problems_of, write_flow

URL = "https://8.8.8.8/papers/plan.pdf"
KEYS = ["source_uri", "download_url", "file_id", "file_name", "file_type"]


def file_flow(folder: Path, kind: str = "File", more: str = "") -> Path:
    dag = f"""
    inputs:
      question: {{type: string, default: read, is_chat_input: true}}
      history: {{type: list, default: [], is_chat_history: true}}
      doc: {{type: {kind}{more}}}
    outputs:
      answer: {{type: string, reference: "${{read.output.text}}", is_chat_output: true}}
      same: {{type: {kind}, reference: "${{read.output.file}}"}}
      name: {{type: string, reference: "${{read.output.file.file_name}}"}}
    nodes:
    - name: read
      type: python
      source: {{path: read.py}}
      inputs: {{doc: "${{inputs.doc}}", history: "${{inputs.history}}"}}
    """
    code = """
    from dataclasses import dataclass
    from langstudio.core import tool
    from langstudio.types import File

    @dataclass
    class Read:
        text: str
        file: File

    @tool
    def invoke(doc: File, history: any) -> Read:
        assert isinstance(doc, File)
        before = [turn["inputs"]["doc"]["source_uri"] for turn in history]
        again = [File(**turn["outputs"]["same"]) for turn in history]
        assert [file.source_uri for file in again] == before
        return Read(" ".join([*before, doc.get_download_url()]), doc)
    """
    return write_flow(folder, dag, {"read.py": code})


async def ask(client: httpx.AsyncClient, path: str, doc: Any) -> httpx.Response:
    inputs = {"doc": doc}
    body = {"inputs": inputs, "stream": False} if path == "/run" else inputs
    return await client.post(path, json=body, headers={"Chat-Session-Id": SESSION})


@pytest.mark.parametrize("kind", ["File", "file"])
async def test_file_passes_through_every_protocol_and_the_history(tmp_path: Path, kind: str) -> None:
    async with client_of(file_flow(tmp_path / "flow", kind), data=tmp_path) as client:
        for number, path in enumerate(("/", "/run", "/score")):
            response = await ask(client, path, {"source_uri": f"{URL}?{number}", "file_type": "document", "size": 3})
            assert response.status_code == 200, response.text
            outputs = response.json()["outputs"] if path == "/run" else response.json()
            assert outputs["answer"] == " ".join(f"{URL}?{seen}" for seen in range(number + 1))
            assert list(outputs["same"]) == KEYS
            assert outputs["same"] == {
                "source_uri": f"{URL}?{number}",
                "download_url": f"{URL}?{number}",
                "file_id": outputs["same"]["file_id"],
                "file_name": "plan.pdf",
                "file_type": "document",
            }
            assert outputs["name"] == "plan.pdf"


@pytest.mark.parametrize("path", ["/", "/run", "/score"])
@pytest.mark.parametrize(
    ("doc", "message"),
    [
        (URL, "input 'doc': expected an object with source_uri, got text that is not JSON"),
        (7, "input 'doc': expected an object with source_uri, got 7"),
        (None, "input 'doc' is missing"),
        ([], "input 'doc': expected an object with source_uri, got []"),
        ({}, "input 'doc': source_uri is missing"),
        ({"source_uri": ""}, "input 'doc': source_uri is missing"),
        ({"source_uri": 7}, "input 'doc': source_uri: expected text, got 7"),
        ({"source_uri": URL, "file_name": []}, "input 'doc': file_name: expected text, got []"),
        (
            {"source_uri": "/etc/passwd"},
            "input 'doc': local paths are not accepted: FLOWPOD_FILE_MOUNTS names no folder",
        ),
        (
            {"source_uri": "http://127.0.0.1/a"},
            "input 'doc': 127.0.0.1 is not a public address; FLOWPOD_ALLOW_PRIVATE_URLS=on allows",
        ),
        ({"source_uri": "gopher://8.8.8.8/a"}, "input 'doc': source_uri: gopher:// is not supported"),
    ],
)
async def test_invalid_file_is_400_with_the_input(tmp_path: Path, path: str, doc: Any, message: str) -> None:
    async with client_of(file_flow(tmp_path / "flow"), data=tmp_path) as client:
        response = await ask(client, path, doc)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith(message)
    if path != "/score":
        assert (error["type"], error["param"]) == ("invalid_request_error", "doc")


async def test_settings_allow_mounts_and_private_urls(tmp_path: Path) -> None:
    document = tmp_path / "mount" / "a.txt"
    document.parent.mkdir()
    document.write_text("a")
    settings: dict[str, Any] = {"file_mounts": (document.parent,), "allow_private_urls": "on"}
    async with client_of(file_flow(tmp_path / "flow"), **settings) as client:
        local = await ask(client, "/", {"source_uri": str(document)})
        near = await ask(client, "/", {"source_uri": "http://127.0.0.1:1/a.txt"})
        outside = await ask(client, "/", {"source_uri": "/etc/passwd"})
    assert (local.json()["answer"], local.json()["name"]) == (document.as_uri(), "a.txt")
    assert near.json()["answer"] == "http://127.0.0.1:1/a.txt"
    assert outside.status_code == 400


async def test_default_file_needs_no_permission(tmp_path: Path) -> None:
    async with client_of(file_flow(tmp_path, more=", default: {source_uri: /no/mount/a.txt}")) as client:
        first, second = await client.post("/", json={}), await client.post("/", json={})
    assert first.json()["same"]["source_uri"] == "/no/mount/a.txt"
    assert first.json()["same"]["file_id"] != second.json()["same"]["file_id"]


def test_invalid_default_file_is_a_problem_of_the_flow(tmp_path: Path) -> None:
    (problem,) = problems_of(file_flow(tmp_path, more=", default: {name: a.txt}"))
    assert (problem.key, problem.message) == ("inputs.doc.default", "source_uri is missing")


@pytest.mark.parametrize("kind", ["string", "list", "object", "int", "File"])
async def test_python_node_gets_none_for_a_missing_value(tmp_path: Path, kind: str) -> None:
    dag = f"""
    inputs:
      value: {{type: {kind}, default: null}}
    outputs:
      seen: {{type: string, reference: "${{look.output}}"}}
    nodes:
    - {{name: never, type: python, source: {{path: look.py}}, inputs: {{value: 1, other: 1}},
        activate: {{when: "${{inputs.value}}", is: never}}}}
    - {{name: look, type: python, source: {{path: look.py}},
        inputs: {{value: "${{inputs.value}}", other: "${{never.output}}"}},
        activate: {{when: 1, is: 1}}}}
    """
    code = """
    from langstudio.core import tool

    @tool
    def invoke(value: any, other: any) -> str:
        return f"{value!r} {other!r}"
    """
    assert (await post(write_flow(tmp_path, dag, {"look.py": code}), "/", {})).json() == {"seen": "None None"}
