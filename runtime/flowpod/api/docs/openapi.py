"""`GET /openapi.json`: the OpenAPI document of all endpoints and the flow's inputs. `GET /docs`: Swagger UI."""

import html
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from flowpod import __version__
from flowpod.api.docs.schemas import (
    example_inputs,
    further_inputs_schema,
    inputs_schema,
    nullable_inputs_schema,
    outputs_schema,
    type_schema,
)
from flowpod.api.http.endpoint import get
from flowpod.api.http.errors import JsonResponse
from flowpod.api.http.middleware import DOCS, OPENAPI, REQUEST_ID_HEADER
from flowpod.flow.model import FILE_TYPES
from flowpod.service import FlowService

_ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js")
_REQUEST_ID = {"$ref": "#/components/headers/RequestId"}
_UNAUTHORIZED = {"$ref": "#/components/responses/Unauthorized"}
_FORBIDDEN = {"$ref": "#/components/responses/Forbidden"}
_INPUTS = {"$ref": "#/components/schemas/Inputs"}
_BY_PLUGIN: Mapping[str, Any] = {
    name: {
        "type": "object",
        "nullable": True,
        "description": "Values by plugin code.",
        "additionalProperties": {"type": "object"},
    }
    for name in ("user_defined_params", "user_defined_tokens")
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="stylesheet" href="{base}/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="{base}/docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "{base}/openapi.json", dom_id: "#page", deepLinking: true}})</script>
</body>
</html>
"""


class ApiDocs:
    """The endpoints of the documentation. They need no token and contain no secrets."""

    def __init__(self, service: FlowService, *, needs_token: bool) -> None:
        self._service = service
        self._needs_token = needs_token

    def routes(self) -> list[Route]:
        """Return the routes of the endpoints."""
        return [
            get(OPENAPI, self.openapi_json),
            get(DOCS, self.swagger_ui),
            get(f"{DOCS}/{{name}}", self.swagger_ui_file),
        ]

    async def openapi_json(self, request: Request) -> Response:  # noqa: ARG002
        """Respond with the OpenAPI document."""
        return JsonResponse(self._document)

    async def swagger_ui(self, request: Request) -> Response:
        """Respond with the page of Swagger UI; its links are relative, because a proxy may add a prefix."""
        base = ".." if request.scope["raw_path"].endswith(b"/") else "."
        return HTMLResponse(_PAGE.format(title=html.escape(self._service.name), base=base))

    async def swagger_ui_file(self, request: Request) -> Response:
        """Respond with a file of Swagger UI from the package swagger_ui_bundle."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            return Response(status_code=404)
        # Imported on first use, because it would slow down the start.
        from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

        return FileResponse(Path(swagger_ui_path) / name, headers={"Cache-Control": "max-age=86400"})

    @cached_property
    def _document(self) -> dict[str, Any]:
        return openapi_document(self._service, needs_token=self._needs_token)


def openapi_document(service: FlowService, *, needs_token: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.0 document of a service: openapi.yaml with its placeholders replaced for the flow."""
    flow = service.flow
    inputs, score = (
        nullable_inputs_schema(inputs_schema(service, history_is_required=required)) for required in (False, True)
    )
    further = further_inputs_schema(service, inputs)
    variables = {name: type_schema(declared.type, "") | {"nullable": True} for name, declared in flow.variables.items()}
    text = (files("flowpod.api.docs") / "openapi.yaml").read_text(encoding="utf-8")
    # libyaml's loader if PyYAML has it: the pure Python one would block the event loop six times as long.
    content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe loaders
    document: dict[str, Any] = _replaced(
        content,
        {
            "<title>": flow.display_name or service.name,
            "<version>": __version__,
            "<description>": flow.description,
            "<inputs>": example_inputs(inputs, service),
            "<score>": example_inputs(score, service),
            **_chat_examples(example_inputs(inputs, service), flow.chat_input),
            "<inputs schema>": inputs | ({"additionalProperties": False} if flow.inputs else {}),
            "<further schema>": further,
            "<biz schema>": further | {"properties": further["properties"] | _BY_PLUGIN},
            "<score schema>": score,
            "<files>": sum(declared.type in FILE_TYPES for declared in flow.inputs.values()),
            "<outputs schema>": outputs_schema(service, for_evaluation=True),
            "<variables schema>": {"type": "object", "properties": variables, "additionalProperties": False},
        },
    )
    if "required" in inputs:
        body = document["components"]["schemas"]["RunBody"]
        body |= {"required": ["inputs"], "properties": body["properties"] | {"inputs": _INPUTS}}
    unavailable = [] if flow.is_chat else ["/v1/", "/api/v1/"]
    unavailable += [] if service.history is not None else ["/chat/"]
    paths = document["paths"].items()
    document["paths"] = {path: item for path, item in paths if not path.startswith(tuple(unavailable))}
    if not needs_token:
        del document["security"], document["components"]["securitySchemes"]
        for operation in _operations(document):
            if (response := operation["responses"].pop("401", None)) is not None:
                operation["responses"]["403"] = _FORBIDDEN if response == _UNAUTHORIZED else response
            operation.pop("security", None)
    for response in _responses(document):
        response["headers"] = {**response.get("headers", {}), REQUEST_ID_HEADER: _REQUEST_ID}
    return document


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document["paths"].values():
        yield from (operation for method, operation in item.items() if method != "parameters")


def _responses(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every response that is written out, instead of by reference."""
    yield from document["components"]["responses"].values()
    for operation in _operations(document):
        yield from (response for response in operation["responses"].values() if "$ref" not in response)


def _chat_examples(inputs: dict[str, Any], chat_input: str | None) -> dict[str, Any]:
    prompt = inputs.pop(chat_input or "", "Hello")
    messages, further = [{"role": "user", "content": prompt}], {"inputs": inputs} if inputs else {}
    parameters = {"result_format": "message", **further}
    return {
        "<chat>": {"model": "default", "messages": messages, **further},
        "<application>": {"input": {"prompt": prompt, **({"biz_params": inputs} if inputs else {})}},
        "<generation>": {"model": "default", "input": {"messages": messages}, "parameters": parameters},
        "<response>": {"model": "default", "input": prompt, **further},
    }


def _replaced(node: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(item, values) for key, item in node.items()}
    if isinstance(node, list):
        return [_replaced(item, values) for item in node]
    return values.get(node, node) if isinstance(node, str) else node
