"""`GET /openapi.json` describes every endpoint, with the flow's own inputs; at `/docs` Swagger UI shows it."""

import html
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from flowpod import __version__
from flowpod.api.docs.schemas import described, example_of, inputs_schema, outputs_schema
from flowpod.api.http.errors import JsonResponse
from flowpod.api.http.middleware import DOCS, OPENAPI
from flowpod.service import FlowService

_ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "openapi.json", dom_id: "#page", deepLinking: true}})</script>
</body>
</html>
"""


class OpenApi:
    """The endpoints. Both are open to anybody, and hold nothing that is secret."""

    def __init__(self, service: FlowService) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Return the endpoints' paths."""
        return [
            Route(OPENAPI, self.document, methods=["GET"]),
            Route(DOCS, self.page, methods=["GET"]),
            Route(f"{DOCS}/{{name}}", self.asset, methods=["GET"]),
        ]

    async def document(self, request: Request) -> Response:  # noqa: ARG002
        """Answer with the description."""
        return JsonResponse(self._document)

    async def page(self, request: Request) -> Response:  # noqa: ARG002
        """Answer with Swagger UI's page."""
        return HTMLResponse(_PAGE.format(title=html.escape(self._service.name)))

    async def asset(self, request: Request) -> Response:
        """Answer with a file of Swagger UI's, which come with this package's dependencies."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            return Response(status_code=404)
        # The package is only looked for when it is needed: importing it takes the start longer.
        from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

        return FileResponse(Path(swagger_ui_path) / name, headers={"Cache-Control": "max-age=86400"})

    @cached_property
    def _document(self) -> dict[str, Any]:
        return openapi_document(self._service)


def openapi_document(service: FlowService) -> dict[str, Any]:
    """Return the OpenAPI 3.0 document of a service: the file beside this one, with the flow's own parts filled in."""
    flow = service.flow
    inputs = inputs_schema(service, history_is_required=False)
    score = inputs_schema(service, history_is_required=True)
    variables = {name: described(one.type, "") | {"nullable": True} for name, one in flow.variables.items()}
    text = (files("flowpod.api.docs") / "openapi.yaml").read_text(encoding="utf-8")
    # libyaml's loader where PyYAML was built with it: the other one would hold the event loop up six times as long.
    content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe loaders
    document: dict[str, Any] = _filled(
        content,
        {
            "<title>": flow.display_name or service.name,
            "<version>": __version__,
            "<description>": flow.description,
            "<inputs>": example_of(inputs, service),
            "<score>": example_of(score, service),
            "<chat>": _chat_example(example_of(inputs, service), flow.chat_input),
            "<application>": _application_example(example_of(inputs, service), flow.chat_input),
            "<generation>": _generation_example(example_of(inputs, service), flow.chat_input),
            "<response>": _response_example(example_of(inputs, service), flow.chat_input),
            "<inputs schema>": inputs,
            "<outputs schema>": outputs_schema(service, for_evaluation=True),
            "<variables schema>": {"type": "object", "properties": variables},
        },
    )
    absent = [] if flow.is_chat else ["/v1/", "/api/v1/"]
    absent += [] if service.history is not None else ["/chat/"]
    document["paths"] = {path: item for path, item in document["paths"].items() if not path.startswith(tuple(absent))}
    return document


def _chat_example(inputs: dict[str, Any], chat_input: str | None) -> dict[str, Any]:
    question = inputs.pop(chat_input or "", "Hello")
    body = {"model": "default", "messages": [{"role": "user", "content": question}]}
    return body | ({"inputs": inputs} if inputs else {})


def _application_example(inputs: dict[str, Any], chat_input: str | None) -> dict[str, Any]:
    question = inputs.pop(chat_input or "", "Hello")
    return {"input": {"prompt": question, **({"biz_params": inputs} if inputs else {})}}


def _generation_example(inputs: dict[str, Any], chat_input: str | None) -> dict[str, Any]:
    messages = [{"role": "user", "content": inputs.pop(chat_input or "", "Hello")}]
    parameters = {"result_format": "message", **({"inputs": inputs} if inputs else {})}
    return {"model": "default", "input": {"messages": messages}, "parameters": parameters}


def _response_example(inputs: dict[str, Any], chat_input: str | None) -> dict[str, Any]:
    question = inputs.pop(chat_input or "", "Hello")
    return {"model": "default", "input": question} | ({"inputs": inputs} if inputs else {})


def _filled(node: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        return {key: _filled(item, values) for key, item in node.items()}
    if isinstance(node, list):
        return [_filled(item, values) for item in node]
    return values.get(node, node) if isinstance(node, str) else node
