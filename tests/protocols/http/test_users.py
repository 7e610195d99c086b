"""`Chat-User-Id` narrows every route: what one user has stored, another can neither read, continue, change nor delete."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowpod.serving.app import routes_of
from flowpod.settings import Settings
from tests.support.flows import SESSION, service_of, write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.serving import Served, serving

FAULT = "a user asks for another user's data"
ANN, BOB = {"Chat-User-Id": "ann"}, {"Chat-User-Id": "bob"}
SECRET = "the-secret-of-ann"
IN_SESSION = {"Chat-Session-Id": SESSION}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
MODEL_CALL = {"model": "any", "input": CHAT}
NOTHING_DELETED = {"deleted": {"sessions": 0, "turns": 0}}


@dataclass(frozen=True)
class Data:
    """What ann has stored."""

    served: Served
    ids: dict[str, str]


@dataclass(frozen=True)
class Case:
    """A request for ann's data. Another user gets 404, or with `nothing` 200 and these values in the body."""

    body: Any = None
    nothing: Any = None
    query: str = ""
    headers: tuple[tuple[str, str], ...] = tuple(IN_SESSION.items())


CASES = {
    ("POST", "/"): Case({"question": "hi"}),
    ("POST", "/run"): Case({"inputs": {"question": "hi"}}),
    ("POST", "/score"): Case({"question": "hi"}),
    ("POST", "/v1/chat/completions"): Case(CHAT),
    ("POST", "/v1/responses"): Case({"input": "hi", "previous_response_id": "{response_id}"}, headers=()),
    ("GET", "/v1/responses/{response_id}"): Case(),
    ("POST", "/v1/responses/{response_id}/cancel"): Case(),
    ("DELETE", "/v1/responses/{response_id}"): Case(),
    ("POST", "/api/v1/apps/{app_id}/completion"): Case({"input": {"prompt": "hi", "session_id": SESSION}}, headers=()),
    ("POST", "/api/v1/services/aigc/text-generation/generation"): Case(MODEL_CALL),
    ("POST", "/api/v1/services/aigc/multimodal-generation/generation"): Case(MODEL_CALL),
    ("GET", "/runs/{run_id}"): Case(),
    ("GET", "/runs/{run_id}/events"): Case(),
    ("POST", "/runs/{run_id}/cancel"): Case(),
    ("GET", "/chat/sessions"): Case(nothing={"data": [], "next_cursor": None}),
    ("DELETE", "/chat/sessions"): Case(nothing=NOTHING_DELETED),
    ("GET", "/chat/sessions/{session_id}"): Case(),
    ("DELETE", "/chat/sessions/{session_id}"): Case(),
    ("GET", "/chat/sessions/{session_id}/turns"): Case(),
    ("GET", "/chat/sessions/{session_id}/export"): Case(),
    ("GET", "/chat/sessions/{session_id}/variables"): Case(),
    ("PATCH", "/chat/sessions/{session_id}/variables"): Case({}),
    ("DELETE", "/chat/turns"): Case(nothing=NOTHING_DELETED, query="?before=2999-01-01T00:00:00Z"),
    ("GET", "/chat/stats"): Case(nothing={"sessions": 0, "turns": 0}),
    ("GET", "/traces"): Case(nothing={"data": [], "next_cursor": None}),
    ("GET", "/traces/{id}"): Case(),
}
FEEDBACK = ("POST", "/feedback")
NO_STORED_DATA = {
    ("GET", path)
    for path in (
        *("/v1/models", "/swagger.json", "/health", "/version", "/metrics", "/healthz", "/readyz", "/openapi.json"),
        *("/docs", "/docs/{name}"),
    )
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, model_server: ModelServer) -> Iterator[Data]:
    """A server on which ann has a session, a background run, a response and a trace."""
    folder = tmp_path_factory.mktemp("users")
    flow = write_chat_flow(folder / "flow", model_server.url)
    with serving(flow, folder) as served, httpx.Client(base_url=served.url, headers=ANN, timeout=30) as client:
        assert client.post("/", json={"question": SECRET}, headers=IN_SESSION).status_code == 200
        run = client.post("/run", json={"inputs": {"question": SECRET}, "background": True}).json()
        client.get(f"/runs/{run['run_id']}/events")  # to its end
        response = client.post("/v1/responses", json={"input": SECRET}).json()
        trace = client.get("/traces").json()["data"][0]["trace_id"]
        ids = {
            "run_id": run["run_id"],
            "response_id": response["id"],
            "session_id": SESSION,
            "id": trace,
            "app_id": "a",
        }
        yield Data(served, ids)


def send(data: Data, route: tuple[str, str], user: dict[str, str]) -> httpx.Response:
    case, (method, path) = CASES[route], route
    body = case.body
    if isinstance(body, dict):
        body = {name: data.ids["response_id"] if value == "{response_id}" else value for name, value in body.items()}
    url = f"{data.served.url}{path.format_map(data.ids)}{case.query}"
    return httpx.request(method, url, json=body, headers={**dict(case.headers), **user}, timeout=30)


async def test_every_route_is_known_here(chat_flow: Path) -> None:
    async with service_of(chat_flow) as service:
        routes = {
            (method, route.path)
            for route in routes_of(service, Settings())
            for method in (route.methods or set()) - {"HEAD"}
        }
    assert routes == {*CASES, FEEDBACK, *NO_STORED_DATA}


@pytest.mark.fault(FAULT)
@pytest.mark.parametrize("route", CASES, ids=" ".join)
def test_another_user_gets_nothing(data: Data, route: tuple[str, str]) -> None:
    response, nothing = send(data, route, BOB), CASES[route].nothing
    if nothing is None:
        assert response.status_code == 404, response.text
    else:
        assert response.status_code == 200, response.text
        assert {name: response.json()[name] for name in nothing} == nothing
    assert SECRET not in response.text
    assert "ann" not in response.text


@pytest.mark.fault(FAULT)
@pytest.mark.parametrize("key", ["trace_id", "run_id", "request_id", "session_id"])
def test_no_id_leads_to_another_users_trace(data: Data, key: str) -> None:
    for run in httpx.get(f"{data.served.url}/traces", headers=ANN).json()["data"]:
        assert httpx.get(f"{data.served.url}/traces/{run[key]}", headers=ANN).status_code == 200
        assert httpx.get(f"{data.served.url}/traces/{run[key]}", headers=BOB).status_code == 404
        assert httpx.get(f"{data.served.url}/traces/{run[key][:12]}", headers=BOB).status_code == 404


@pytest.mark.fault(FAULT)
def test_feedback_of_another_user_is_not_in_a_users_trace(data: Data) -> None:
    trace = data.ids["id"].removeprefix("0x")
    forged = {"traceparent": f"00-{trace}-{'1' * 16}-01", "baggage": "user.id=ann"}
    url = f"{data.served.url}/feedback?flatten=true"
    assert httpx.post(url, json={"user.id": "ann"}, headers={**BOB, **forged}).status_code == 200
    names = [
        [run["name"] for run in httpx.get(f"{data.served.url}/traces/{trace}", headers=user).json()["runs"]]
        for user in (ANN, BOB)
    ]
    assert names == [["invoke_workflow flow"], ["promptflow-feedback"]]


def test_a_user_in_the_query_must_be_that_of_the_header(data: Data) -> None:
    response = httpx.get(f"{data.served.url}/traces", params={"user": "ann"}, headers=BOB)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "user")


@pytest.mark.parametrize(("method", "path"), sorted(NO_STORED_DATA))
def test_the_other_routes_have_nothing_of_a_user(data: Data, method: str, path: str) -> None:
    text = httpx.request(method, f"{data.served.url}{path.format(name='index.html')}", follow_redirects=True).text
    assert SECRET not in text
    assert SESSION not in text


@pytest.mark.parametrize("route", [route for route in CASES if route[0] == "GET"], ids=" ".join)
def test_the_user_still_has_everything(data: Data, route: tuple[str, str]) -> None:
    response = send(data, route, ANN)
    assert response.status_code == 200
    if CASES[route].nothing is not None:
        assert {name: response.json()[name] for name in CASES[route].nothing} != CASES[route].nothing
