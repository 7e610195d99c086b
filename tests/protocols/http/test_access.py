"""Who may call a service without tokens: which hosts, and pages of which origins."""

from pathlib import Path

import httpx
import pytest

from tests.support.flows import client_of

ORIGIN = "https://chat.example.com"
BODY = b'{"question": "hi"}'


async def status_of(client: httpx.AsyncClient, **headers: str) -> int:
    """Return the status of a request that a browser sends to another origin without asking first."""
    sent = {"Content-Type": "text/plain"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return (await client.post("/", content=BODY, headers=sent)).status_code


@pytest.mark.fault("a web page that reaches a service on localhost")
@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "flow.localhost:1", "localhost.", "127.0.0.1:8080", "127.9.9.9", "[::1]:80"]
)
async def test_without_tokens_this_machine_is_served(chat_flow: Path, host: str) -> None:
    async with client_of(chat_flow) as client:
        assert await status_of(client, Host=host) == 200


@pytest.mark.fault("a web page that reaches a service on localhost")
@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "notlocalhost", "10.0.0.1", "[::2]", ""],
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/chat/sessions", "/docs", "/v1/models"])
async def test_without_tokens_other_hosts_are_refused(chat_flow: Path, host: str, path: str) -> None:
    async with client_of(chat_flow) as client:
        response = await client.get(path, headers={"Host": host})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "host_not_allowed"
    assert "FLOWPOD_TOKENS" in response.json()["error"]["message"]


@pytest.mark.parametrize("settings", [{"tokens": ("t",)}, {"auth": "off"}])
async def test_with_tokens_or_a_gateway_any_host_is_served(chat_flow: Path, settings: dict[str, object]) -> None:
    async with client_of(chat_flow, **settings) as client:  # type: ignore[arg-type]
        assert await status_of(client, Host="flow.example.com", Authorization="Bearer t") == 200
        assert (await client.get("/healthz", headers={"Host": "10.1.2.3:8080"})).status_code == 200


@pytest.mark.fault("a web page that reaches a service on localhost")
@pytest.mark.parametrize("auth", ["on", "off"])
@pytest.mark.parametrize("origin", [ORIGIN, "null", "http://localhost:3000", "http://localhost.evil.example", ""])
async def test_without_tokens_pages_of_other_origins_are_refused(chat_flow: Path, auth: str, origin: str) -> None:
    async with client_of(chat_flow, auth=auth) as client:
        for headers in ({}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}):
            assert await status_of(client, Origin=origin, **headers) == 403
        response = await client.post("/run", content=BODY, headers={"Origin": origin})
        dashscope = await client.post("/api/v1/apps/flow/completion", json={}, headers={"Origin": origin})
    assert response.json()["error"]["code"] == "origin_not_allowed"
    assert "FLOWPOD_CORS_ORIGINS" in response.json()["error"]["message"]
    assert (dashscope.status_code, dashscope.json()["code"]) == (403, "AccessDenied")


async def test_own_and_allowed_origins_are_served(chat_flow: Path) -> None:
    async with client_of(chat_flow, auth="off") as client:
        assert await status_of(client, Host="flow.localhost:80", Origin="http://flow.localhost:80") == 200
        # A gateway has changed Host; the browser still knows the origin that it called.
        assert await status_of(client, Origin=ORIGIN, Sec_Fetch_Site="same-origin") == 200
    for origins in (ORIGIN, "*", f"null, {ORIGIN}"):
        async with client_of(chat_flow, cors_origins=origins) as client:
            assert await status_of(client, Origin=ORIGIN) == 200
    async with client_of(chat_flow, tokens=("t",)) as client:
        assert await status_of(client, Origin=ORIGIN, Authorization="Bearer t") == 200


async def test_405_names_every_method_of_the_path(chat_flow: Path, tmp_path: Path) -> None:
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        for path, methods in {
            "/": "POST",
            "/healthz": "GET, HEAD",
            "/chat/sessions": "DELETE, GET, HEAD",
            "/chat/sessions/a/variables": "GET, HEAD, PATCH",
            "/v1/responses/a": "DELETE, GET, HEAD",
            "/v1/responses/a/": "DELETE, GET, HEAD",
        }.items():
            response = await client.put(path)
            assert (response.status_code, response.headers["allow"]) == (405, methods)
            assert response.json()["error"]["message"].endswith(f"use {methods}")


async def test_a_trailing_slash_is_answered_and_not_redirected(chat_flow: Path) -> None:
    async with client_of(chat_flow, tokens=("t",)) as client:
        headers = {"Host": "evil.example", "Authorization": "Bearer t"}
        for path in ("/docs/", "/openapi.json/", "/healthz/", "/v1/models/"):
            response = await client.get(path, headers=headers)
            assert (response.status_code, response.headers.get("location")) == (200, None)
        assert (await client.post("/run/", json={"inputs": {"question": "hi"}}, headers=headers)).status_code == 200
        assert (await client.get("/healthz/")).status_code == 200
        assert (await client.get("/v1/models/")).status_code == 401
        for path in ("/healthz//", "/nothing/", "/docs//"):
            assert (await client.get(path, headers=headers)).status_code == 404
        page = await client.get("/docs/")
        for link in ("swagger-ui.css", "swagger-ui-bundle.js"):
            assert f'"../docs/{link}"' in page.text
            assert (await client.get(f"/docs/../docs/{link}")).status_code == 200
