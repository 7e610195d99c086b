"""Who asks on OpenAI's API, where chat clients have names of their own for a session and a user."""

from dataclasses import replace
from typing import Any

from starlette.requests import Request

from flowpod.api.http.middleware import SESSION_ID
from flowpod.api.http.requests import Caller, is_session_id, is_user_id, read_caller

CHAT_ID = "X-OpenWebUI-Chat-Id"
CHAT_USER_ID = "X-OpenWebUI-User-Id"


def read_chat_caller(request: Request, *, keep_chats: bool) -> Caller:
    """Return who calls, and see to it that the response names the session.

    Where the request names no session, a chat client's id of its chat is one, and where it names no user, the client's
    id of the user is one; what breaks the rule is passed over. Turns are stored under such a session with `keep_chats`.
    Raises InvalidRequest for an id of Flowpod's own that breaks its rule.
    """
    caller = read_caller(request)
    chat = request.headers.get(CHAT_ID, "")
    if SESSION_ID not in request.headers and is_session_id(chat):
        caller = replace(caller, session_id=chat, assigned=not keep_chats)
        request.state.session_id = chat
    return with_user(caller, request.headers.get(CHAT_USER_ID))


def with_user(caller: Caller, user: Any) -> Caller:
    """Return the caller with `user` as its user where it names none and that may be one."""
    return replace(caller, user_id=user) if caller.user_id is None and is_user_id(user) else caller
