"""CORS: the preflight request, and what a page of another origin can read."""

from pathlib import Path

import pytest

from tests.support.flows import client_of

ORIGIN = "https://chat.example.com"
ASKED = "authorization,chat-session-id,content-type,x-stainless-lang"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": ASKED,
    "Access-Control-Request-Private-Network": "true",
}
BODY = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("origins", "allowed"), [(ORIGIN, ORIGIN), (f"https://other.example, {ORIGIN}", ORIGIN), ("*", "*")]
)
async def test_a_preflight_request_needs_no_token(chat_flow: Path, origins: str, allowed: str) -> None:
    async with client_of(chat_flow, tokens=("secret",), cors_origins=origins) as client:
        for path in ("/", "/run", "/score", "/v1/chat/completions", "/v1/models"):
            response = await client.options(path, headers=PREFLIGHT)
            assert response.is_success
            assert response.headers["access-control-allow-origin"] == allowed
            assert response.headers["access-control-allow-headers"] == ASKED
            assert "POST" in response.headers["access-control-allow-methods"]
            assert response.headers["access-control-allow-private-network"] == "true"
            assert response.headers["x-request-id"]


@pytest.mark.parametrize(("token", "status"), [("secret", 200), ("wrong", 401)])
async def test_responses_and_errors_can_be_read_across_origins(chat_flow: Path, token: str, status: int) -> None:
    async with client_of(chat_flow, tokens=("secret",), cors_origins=ORIGIN) as client:
        headers = {"Origin": ORIGIN, "Authorization": f"Bearer {token}"}
        response = await client.post("/v1/chat/completions", json=BODY, headers=headers)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (status, ORIGIN)
    assert response.headers["access-control-expose-headers"] == "Chat-Session-Id, X-Request-Id, X-Flowpod-History"
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize("origins", ["", "https://other.example", f"{ORIGIN}:8443"])
async def test_other_origins_are_not_allowed(chat_flow: Path, origins: str) -> None:
    async with client_of(chat_flow, tokens=("secret",), cors_origins=origins) as client:
        preflight = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        headers = {"Origin": ORIGIN, "Authorization": "Bearer secret"}
        response = await client.post("/v1/chat/completions", json=BODY, headers=headers)
    assert preflight.is_error
    assert response.status_code == 200
    for answer in (preflight, response):
        assert "access-control-allow-origin" not in answer.headers
