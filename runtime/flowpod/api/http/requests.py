"""Reading a request: its body within the limit, its headers by their rules."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from flowpod.api.http.middleware import SESSION_ID
from flowpod.engine.request import MAX_ROUNDS, RunRequest, WireProtocol
from flowpod.errors import BodyTooLarge, InvalidRequest

USER_ID = "Chat-User-Id"
HISTORY_ROUNDS = "Chat-History-Rounds"

_SESSION_ID = re.compile(r"[A-Za-z0-9_:-]{32,255}")
_USER_ID_LENGTH = 255
_ROUNDS_DIGITS = 9  # what Python reads quickly, and more than anybody needs
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request's headers say: the session (`assigned` when it named none), the user, and its trace.

    `history_rounds` is how many past turns it wants, None where the flow says so.
    """

    session_id: str
    assigned: bool
    user_id: str | None
    request_id: str
    headers: Mapping[str, str]
    history_rounds: int | None = None

    def request(
        self,
        inputs: Mapping[str, Any],
        *,
        protocol: WireProtocol,
        streaming: bool,
        keep_assigned: bool = True,
        instructions: str = "",
        overrides: Mapping[str, Any] | None = None,
    ) -> RunRequest:
        """Return what this caller asks of the service."""
        return RunRequest(
            inputs=inputs,
            session_id=self.session_id,
            streaming=streaming,
            assigned=self.assigned,
            keep_assigned=keep_assigned,
            user_id=self.user_id,
            instructions=instructions,
            request_id=self.request_id,
            headers=self.headers,
            protocol=protocol,
            history_rounds=self.history_rounds,
            overrides=overrides or {},
        )


def read_caller(request: Request) -> Caller:
    """Return who calls, and see to it that the response names the session.

    Raises InvalidRequest for an id that breaks its rule.
    """
    given = request.headers.get(SESSION_ID)
    if given is not None and not _SESSION_ID.fullmatch(given):
        message = f"{SESSION_ID} must have 32 to 255 letters, digits, underscores, hyphens or colons"
        raise InvalidRequest(message, param=SESSION_ID, code="invalid_session_id")
    user_id = read_user_id(request)
    session_id = given or str(uuid.uuid4())
    request.state.session_id = session_id
    trace_context = {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}
    rounds = _history_rounds(request)
    return Caller(session_id, given is None, user_id, request.state.request_id, trace_context, rounds)


def read_user_id(request: Request) -> str | None:
    """Return the user that the request names; raises InvalidRequest for an id that breaks its rule."""
    # MySQL takes no notice of spaces at the end, so nobody else does.
    user_id = request.headers.get(USER_ID, "").strip() or None
    if user_id is not None:
        try:
            user_id = user_id.encode("latin-1").decode()  # headers are bytes; names of users are UTF-8
        except UnicodeDecodeError:
            raise InvalidRequest(f"{USER_ID} is not UTF-8", param=USER_ID, code="invalid_user_id") from None
        if len(user_id) > _USER_ID_LENGTH:
            message = f"{USER_ID} may have at most {_USER_ID_LENGTH} characters"
            raise InvalidRequest(message, param=USER_ID, code="invalid_user_id")
    return user_id


def _history_rounds(request: Request) -> int | None:
    given = request.headers.get(HISTORY_ROUNDS)
    if given is None:
        return None
    if not (given.isdecimal() and len(given) <= _ROUNDS_DIGITS and int(given) <= MAX_ROUNDS):
        message = f"{HISTORY_ROUNDS} must be a number from 0 to {MAX_ROUNDS}"
        raise InvalidRequest(message, param=HISTORY_ROUNDS, code="invalid_history_rounds")
    return int(given)


def is_session_id(text: str) -> bool:
    """Return whether `text` may name a session."""
    return _SESSION_ID.fullmatch(text) is not None


def is_user_id(value: Any) -> bool:
    """Return whether a value that a client gives may name a user."""
    return isinstance(value, str) and 0 < len(value) <= _USER_ID_LENGTH and value == value.strip()


async def read_bytes(request: Request, limit: int) -> bytes:
    """Return the body; raises BodyTooLarge when it has more than `limit` bytes."""
    message = f"the body is over the limit of {limit} bytes (FLOWPOD_MAX_BODY_BYTES)"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(message)
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                raise BodyTooLarge(message)
    except ClientDisconnect:
        raise InvalidRequest("the client left before it had sent the body", code="incomplete_body") from None
    return bytes(body)


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """Return the body, a JSON object of at most `limit` bytes.

    Raises BodyTooLarge, or InvalidRequest that says what the body is instead.
    """
    body = await read_bytes(request, limit)
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        what = f"not valid JSON: {error}" if body else "empty; it must be a JSON object"
        raise InvalidRequest(f"the body is {what}", code="invalid_json") from None
    return as_object(content)


def as_object(content: Any) -> dict[str, Any]:
    """Return what the body's JSON holds; raises InvalidRequest when it is no object."""
    if not isinstance(content, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {_name_of(content)}", code="invalid_json")
    return content


def read_model(kind: type[Body], content: dict[str, Any]) -> Body:
    """Return the body as `kind`; raises InvalidRequest that names the first field that is wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        detail = error.errors()[0]
        field = ".".join(str(part) for part in detail["loc"])
        known = {"missing": "is required", "model_type": "input should be an object"}  # no word of our own classes
        what = known.get(detail["type"]) or detail["msg"][0].lower() + detail["msg"][1:]
        raise InvalidRequest(f"{field}: {what}", param=field) from None


def read_query(kind: type[Body], request: Request) -> Body:
    """Return the query as `kind`; raises InvalidRequest that names the first parameter that is wrong."""
    return read_model(kind, dict(request.query_params))


def _name_of(value: Any) -> str:
    names = {
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names[type(value)]
