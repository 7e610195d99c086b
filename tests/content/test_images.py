"""Images in requests, in the flow's own file, in messages and as objects of Python code."""

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tests.support.flows import client_of, post, problems_of, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import in_thread

PNG = b"\x89PNG\r\n\x1a\n-pixels"
ENCODED = base64.b64encode(PNG).decode()
REMOTE = "https://example.com/a.png"

VISION = """
inputs:
  q: {{type: {type}}}
outputs:
  a: {{type: string, reference: "${{n.output}}"}}
nodes:
- name: n
  type: {node}
  source: {{{source}, path: p.jinja2}}
  {connection}
  inputs: {{{extra} connection: {name}, model: echo, deployment_name: echo, tag: {tag}, q: "${{inputs.q}}"}}
"""
CONNECTIONS = """
open: {{type: open_ai, base_url: '{server.url}', max_retries: 0}}
azure: {{type: azure_open_ai, api_base: '{server.azure_url}', api_key: k, max_retries: 0}}
"""
TOOLS = {
    "azure": "type: package_with_prompt, tool: promptflow.tools.aoai_gpt4v.AzureOpenAI.chat",
    "open": "type: package_with_prompt, tool: promptflow.tools.openai_gpt4v.OpenAI.chat",
}
LLM_TOOL = "type: package_with_prompt, tool: promptflow.tools.llm.llm"


async def asked(
    tmp_path: Path, server: ModelServer, value: Any, prompt: str = "# user:\n{{q}}\n{{tag}}", **options: str
) -> tuple[httpx.Response, dict[str, Any]]:
    """Send `value` as the input `q`; return the response and what the model was sent."""
    tag, name = str(uuid.uuid4()), options.get("name", "azure")
    settings = {
        "type": "list",
        "node": "custom_llm",
        "source": TOOLS[name],
        "connection": "",
        "extra": "",
        "name": name,
        **options,
    }
    folder = write_flow(
        tmp_path,
        VISION.format(tag=tag, **settings),
        {"p.jinja2": prompt, "connections.yaml": CONNECTIONS.format(server=server)},
    )
    response = await post(folder, "/", {"q": value})
    return response, next((call.body for call in server.calls if tag in json.dumps(call.body)), {})


def content_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


@pytest.mark.parametrize("name", ["azure", "open"])
async def test_images_become_content_parts_of_the_message(tmp_path: Path, model_server: ModelServer, name: str) -> None:
    value = [{"data:image/png;url": REMOTE}, "How many?", {"data:image/jpg;base64": ENCODED}]
    response, body = await asked(tmp_path, model_server, value, name=name)
    assert response.status_code == 200, response.text
    *parts, last = body["messages"][0]["content"]
    assert parts == [
        content_part(REMOTE),
        {"type": "text", "text": "How many?"},
        content_part(f"data:image/jpg;base64,{ENCODED}"),
    ]
    assert last["type"] == "text"
    sampling = {"temperature": 1.0, "top_p": 1.0, "n": 1, "presence_penalty": 0, "frequency_penalty": 0}
    assert {name: body[name] for name in sampling} == sampling
    assert "detail" not in body


@pytest.mark.parametrize(("node", "source"), [("llm", "type: code"), ("custom_llm", LLM_TOOL)])
async def test_llm_nodes_take_images_too(tmp_path: Path, model_server: ModelServer, node: str, source: str) -> None:
    connection = "connection: open" if node == "llm" else ""
    value = [{"data:image/png;url": REMOTE}, "What?"]
    response, body = await asked(
        tmp_path, model_server, value, node=node, source=source, connection=connection, name="open"
    )
    assert response.status_code == 200, response.text
    assert body["messages"][0]["content"][:2] == [content_part(REMOTE), {"type": "text", "text": "What?"}]


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ({"data:image/png;url": REMOTE}, REMOTE),
        (REMOTE, REMOTE),
        (f"data:image/png;base64,{ENCODED}", f"data:image/png;base64,{ENCODED}"),
        ({"data:image/png;base64": f"data:image/png;base64,{ENCODED}"}, f"data:image/png;base64,{ENCODED}"),
        (ENCODED, f"data:image/*;base64,{ENCODED}"),
    ],
)
async def test_input_of_type_image_may_be_text(tmp_path: Path, model_server: ModelServer, value: Any, url: str) -> None:
    response, body = await asked(tmp_path, model_server, value, "# user:\nlook ![image]({{q}})\n{{tag}}", type="image")
    assert response.status_code == 200, response.text
    assert body["messages"][0]["content"][:2] == [{"type": "text", "text": "look "}, content_part(url)]


async def test_message_without_images_is_text(tmp_path: Path, model_server: ModelServer) -> None:
    _, body = await asked(tmp_path, model_server, ["one", "two"])
    assert body["messages"][0]["content"].startswith("one\ntwo\n")
    _, body = await asked(tmp_path, model_server, ["one", "two"], name="open", source=LLM_TOOL)
    assert body["messages"][0]["content"].startswith("['one', 'two']\n")


async def test_detail_is_sent_to_the_model(tmp_path: Path, model_server: ModelServer) -> None:
    _, body = await asked(tmp_path, model_server, [{"data:image/png;url": REMOTE}], extra="detail: low,")
    assert body["messages"][0]["content"][0]["image_url"]["detail"] == "low"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"data:image/png;path": "a.png"}], "a request must send images as base64 or URLs; paths are not accepted"),
        ([{"a": {"data:image/png;path": "/etc/passwd"}}], "paths are not accepted"),
        ([{"data:image/png;base64": "%%%"}], "the image is not valid base64"),
        ([{"data:image/png;url": "file:///etc/passwd"}], "is not a valid http:// or https:// URL"),
        ([{"data:image/png;url": "http://[::"}], "is not a valid http:// or https:// URL"),
        (
            [{"data:image/png;url": "http://localhost/x"}],
            "is not a public address; FLOWPOD_ALLOW_PRIVATE_URLS=on allows such addresses",
        ),
        ([{"data:image/png;url": "http://169.254.169.254/latest"}], "is not a public address"),
    ],
)
async def test_forbidden_image_is_refused(tmp_path: Path, model_server: ModelServer, value: Any, message: str) -> None:
    response, body = await asked(tmp_path, model_server, value)
    assert (response.status_code, body) == (400, {})
    assert message in response.json()["error"]["message"]
    assert response.json()["error"]["param"] == "q"


@pytest.mark.parametrize("value", ["", 5, [], {"a": 1}, "a.png"])
async def test_input_of_type_image_must_be_one(tmp_path: Path, model_server: ModelServer, value: Any) -> None:
    response, _ = await asked(tmp_path, model_server, value, type="image")
    assert response.status_code == 400


PYTHON = """
inputs:
  q: {type: list}
outputs:
  a: {type: object, reference: "${n.output}"}
nodes:
- {name: n, type: python, source: {path: a.py}, inputs: {q: "${inputs.q}"}}
"""
CODE = """
from promptflow.contracts.multimedia import Image

def invoke(q: list):
    image = q[0]
    assert isinstance(image, Image)
    return {"bytes": image.decode("latin-1"), "type": image._mime_type, "url": image.source_url, "back": image}
"""


@pytest.fixture(scope="module")
def images() -> Iterator[str]:
    async def image(request: Any) -> Response:
        return Response(PNG, media_type="image/png")

    async def moved(request: Any) -> Response:
        return RedirectResponse("/a.png")

    async def around(request: Any) -> Response:
        return RedirectResponse("/around")

    with in_thread(Starlette(routes=[Route("/a.png", image), Route("/moved", moved), Route("/around", around)])) as url:
        yield url


async def test_python_code_gets_an_image_object(tmp_path: Path) -> None:
    async with client_of(write_flow(tmp_path, PYTHON, {"a.py": CODE})) as client:
        response = await client.post("/", json={"q": [{"data:image/jpg;base64": ENCODED}]})
    assert response.json()["a"] == {
        "bytes": PNG.decode("latin-1"),
        "type": "image/jpg",
        "url": None,
        "back": {"data:image/jpg;base64": ENCODED},
    }


@pytest.mark.parametrize("path", ["a.png", "moved"])
async def test_image_for_python_code_is_fetched(tmp_path: Path, images: str, path: str) -> None:
    url = f"{images}/{path}"
    async with client_of(write_flow(tmp_path, PYTHON, {"a.py": CODE}), allow_private_urls="on") as client:
        response = await client.post("/", json={"q": [{"data:image/png;url": url}]})
    assert (response.json()["a"]["bytes"], response.json()["a"]["url"]) == (PNG.decode("latin-1"), url)


@pytest.mark.parametrize(
    ("path", "message"), [("/gone", "the server answered 404"), ("/around", "it redirects more than 5 times")]
)
async def test_image_that_is_not_fetched_fails_the_node(tmp_path: Path, images: str, path: str, message: str) -> None:
    async with client_of(write_flow(tmp_path, PYTHON, {"a.py": CODE}), allow_private_urls="on") as client:
        response = await client.post("/", json={"q": [{"data:image/png;url": images + path}]})
    assert response.status_code == 424
    assert message in response.json()["error"]["message"]


PASSED_ON = """
inputs:
  one: {type: image}
  more: {type: list}
outputs:
  one: {type: image, reference: "${inputs.one}"}
  more: {type: list, reference: "${n.output}"}
nodes:
- {name: n, type: python, source: {path: a.py}, inputs: {more: "${inputs.more}"}}
"""
OWN = """
def invoke(more: list):
    return [*more, {"data:image/png;url": "https://example.com/own.png"}]
"""


async def test_score_returns_the_content_of_an_image_sent_as_a_url(tmp_path: Path, images: str) -> None:
    flow = write_flow(tmp_path, PASSED_ON, {"a.py": OWN})
    body = {"one": f"{images}/a.png", "more": [{"data:image/jpg;url": f"{images}/moved"}, "text"]}
    async with client_of(flow, allow_private_urls="on") as client:
        response = await client.post("/score", json=body)
        as_written = await client.post("/", json=body)
    assert response.json() == {
        "one": {"data:image/png;base64": ENCODED},
        "more": [{"data:image/jpg;base64": ENCODED}, "text", {"data:image/png;url": "https://example.com/own.png"}],
    }
    assert as_written.json()["one"] == {"data:image/*;url": f"{images}/a.png"}


async def test_score_refuses_an_image_that_cannot_be_fetched(tmp_path: Path, images: str) -> None:
    flow = write_flow(tmp_path, PASSED_ON, {"a.py": OWN})
    response = await post(flow, "/score", {"one": f"{images}/gone", "more": []}, allow_private_urls="on")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "UserError")
    assert "cannot be fetched: the server answered 404" in response.json()["error"]["message"]


LITERAL = """
outputs:
  a: {type: object, reference: "${n.output}"}
nodes:
- {name: n, type: python, source: {path: a.py}, inputs: {image: %s}}
"""
LITERAL_CODE = """
from promptflow.contracts.multimedia import Image

def invoke(image: Image):
    return image
"""


@pytest.mark.parametrize("literal", ["sub/a.png", "{'data:image/png;path': sub/a.png}"])
async def test_image_file_of_the_flow_is_read(tmp_path: Path, literal: str) -> None:
    folder = write_flow(tmp_path, LITERAL % literal, {"a.py": LITERAL_CODE})
    (folder / "sub").mkdir()
    (folder / "sub/a.png").write_bytes(PNG)
    assert (await post(folder, "/", {})).json() == {"a": {"data:image/png;base64": ENCODED}}


@pytest.mark.parametrize(
    ("literal", "message"),
    [
        ("../a.png", "the image '../a.png' is outside the flow's folder"),
        ("/etc/passwd", "the image '/etc/passwd' is outside the flow's folder"),
        ("gone.png", "the image 'gone.png' cannot be read: No such file or directory"),
        ("5", "expected an image, such as {'data:image/png;url': 'https://example.com/a.png'}"),
    ],
)
def test_image_file_outside_the_flow_is_refused(tmp_path: Path, literal: str, message: str) -> None:
    folder = write_flow(tmp_path / "flow", LITERAL % literal, {"a.py": LITERAL_CODE})
    (problem,) = problems_of(folder)
    assert problem.message == f"node 'n': {message}"
    default = f"inputs: {{i: {{type: image, default: {literal}}}}}\n"
    write_flow(
        tmp_path / "flow",
        default + "nodes: [{name: n, type: python, source: {path: b.py}}]",
        {"b.py": "def invoke(): ..."},
    )
    (problem,) = problems_of(folder)
    assert (problem.key, problem.message) == ("inputs.i.default", message)
