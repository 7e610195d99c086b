"""Requests with more items than any conversation has are rejected with the field and the limit."""

from pathlib import Path
from typing import Any

import pytest

from flowpod.api.http.requests import MAX_ITEMS
from tests.support.flows import post

MANY = MAX_ITEMS + 1
MESSAGES = [{"role": "user", "content": "hi"}] * MANY
PARTS = [{"role": "user", "content": [{"type": "text", "text": "hi"}] * MANY}]
TEXTS = [{"role": "user", "content": [{"text": "hi"}] * MANY}]
GENERATION = "/api/v1/services/aigc/text-generation/generation"


@pytest.mark.fault("a request has too many items")
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, "messages"),
        ("/v1/chat/completions", {"messages": PARTS}, "messages.0.content"),
        ("/v1/responses", {"input": MESSAGES}, "input"),
        ("/v1/responses", {"input": PARTS}, "input"),
        ("/api/v1/apps/a/completion", {"input": {"messages": MESSAGES}}, "input.messages"),
        ("/api/v1/apps/a/completion", {"input": {"messages": TEXTS}}, "input.messages.0.content"),
        ("/api/v1/apps/a/completion", {"input": {"prompt": "x", "history": [{"user": "a"}] * MANY}}, "input.history"),
        ("/api/v1/apps/a/completion", {"input": {"prompt": "x", "image_list": ["a"] * MANY}}, "input.image_list"),
        ("/api/v1/apps/a/completion", {"input": {"prompt": "x", "file_list": ["a"] * MANY}}, "input.file_list"),
        (GENERATION, {"input": {"messages": MESSAGES}}, "input.messages"),
        ("/feedback?flatten=true", {str(number): 1 for number in range(1001)}, "flatten"),
        ("/feedback?flatten=true", {"k" * 256: 1}, "flatten"),
    ],
)
async def test_too_many_items_are_refused(chat_flow: Path, path: str, body: dict[str, Any], field: str) -> None:
    response = await post(chat_flow, path, body)
    content = response.json()
    message = content.get("error", content)["message"]
    assert response.status_code == 400
    assert message.startswith(f"{field}: ")
    assert any(
        limit in message for limit in ("at most 10000 are accepted", "at most 1000 are accepted", "more than 255")
    )
