"""The caller of OpenAI's API, where chat clients have session and user headers of their own."""

from dataclasses import replace
from typing import Any

from starlette.requests import Request

from flowpod.api.http.middleware import SESSION_ID
from flowpod.api.http.requests import is_session_id, is_user_id, read_caller
from flowpod.engine.request import RunRequest

CHAT_ID = "X-OpenWebUI-Chat-Id"
CHAT_USER_ID = "X-OpenWebUI-User-Id"


def read_chat_caller(request: Request, *, keep_chats: bool) -> RunRequest:
    """Read the caller from the request's headers and set the session id on the response.

    Without Flowpod's own headers, Open WebUI's chat id is the session id and its user id the user id; invalid ones are
    ignored. With `keep_chats`, turns are stored under such a session. Raises InvalidRequest if one of Flowpod's own
    headers is invalid.
    """
    caller = read_caller(request)
    chat = request.headers.get(CHAT_ID, "")
    if SESSION_ID not in request.headers and is_session_id(chat):
        caller = replace(caller, session_id=chat, assigned=not keep_chats)
        request.state.session_id = chat
    return with_user(caller, request.headers.get(CHAT_USER_ID))


def with_user(caller: RunRequest, user: Any) -> RunRequest:
    """Return the caller with the user id `user`, if it has none and `user` is a valid one."""
    return replace(caller, user_id=user) if caller.user_id is None and is_user_id(user) else caller
