"""A turn that is not stored yet: the answer says so in every protocol, and clients read it as before."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import client_of
from tests.support.outages import LockedFile

SAYS = "a turn is not stored in time"
SESSION = "0123456789abcdef0123456789abcdef"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
DASHSCOPE = {"input": {"prompt": "hi", "session_id": SESSION}}
SSE = {"Accept": "text/event-stream"}
MODES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "simple": ("/", {"question": "hi"}, {}),
    "simple stream": ("/", {"question": "hi"}, SSE),
    "complete": ("/run", {"inputs": {"question": "hi"}, "stream": False}, {}),
    "complete stream": ("/run", {"inputs": {"question": "hi"}, "stream": True}, {}),
    "chat": ("/v1/chat/completions", CHAT, {}),
    "chat stream": ("/v1/chat/completions", CHAT | {"stream": True}, {}),
    "score": ("/score", {"question": "hi"}, {}),
    "score stream": ("/score", {"question": "hi"}, SSE),
    "application": ("/api/v1/apps/any/completion", DASHSCOPE, {}),
    "application stream": ("/api/v1/apps/any/completion", DASHSCOPE, {"X-DashScope-SSE": "enable"}),
}


def said(answer: httpx.Response) -> bool:
    """Return whether a JSON answer has the header, or a stream the comment."""
    if "text/event-stream" not in answer.headers["content-type"]:
        return bool(answer.headers.get("x-flowpod-history") == "deferred")
    return ": X-Flowpod-History: deferred" in answer.text.split("\n\n")


@pytest.mark.fault(SAYS)
@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_says_that_its_turn_is_not_stored_yet(tmp_path: Path, chat_flow: Path, mode: str) -> None:
    path, body, headers = MODES[mode]
    headers = headers | {"Chat-Session-Id": SESSION}
    locked = LockedFile(tmp_path / "history.db")
    async with client_of(chat_flow, database=locked.url, history_write_timeout_s=0.3) as client:
        before = await client.post(path, json=body, headers=headers)
        locked.begin()
        deferred = await client.post(path, json=body, headers=headers)
        locked.end()
        async with asyncio.timeout(30):
            while (after := await client.post(path, json=body, headers=headers)).status_code == 503:
                await asyncio.sleep(0.05)
    assert [answer.status_code for answer in (before, deferred, after)] == [200] * 3, deferred.text
    assert [said(answer) for answer in (before, deferred, after)] == [False, True, False]
