"""Reading a request: its headers, its query and its body, each validated."""

import asyncio
import re
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, FiniteFloat, Strict, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect, Request

from flowpod.api.http.middleware import SESSION_ID
from flowpod.engine.request import RunRequest
from flowpod.errors import BodyTooLarge, InvalidRequest
from flowpod.flow.model import MAX_ROUNDS
from flowpod.ids import new_uuid

USER_ID = "Chat-User-Id"
HISTORY_ROUNDS = "Chat-History-Rounds"

_SESSION_ID = re.compile(r"[A-Za-z0-9_:-]{32,255}")
_USER_ID_LENGTH = 255
_ROUNDS_DIGITS = 9  # longer numbers are slow to parse, and far beyond MAX_ROUNDS
MAX_ITEMS = 10_000
"""The limit of the messages of a request, and of the parts of one message: no conversation has more."""
Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")


Number = Annotated[FiniteFloat, Strict()]
"""A number of a body; unlike pydantic's own rule, not a text or a boolean that looks like one."""


class RequestModel(BaseModel):
    """Base of the models of bodies and queries; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True)


def read_caller(request: Request) -> RunRequest:
    """Return a run request with the caller that the headers describe and no inputs; set the response's session id.

    Raises InvalidRequest for an invalid session id, user id or number of rounds.
    """
    named = request.headers.get(SESSION_ID)
    if named is not None and not _SESSION_ID.fullmatch(named):
        message = f"{SESSION_ID} must have 32 to 255 letters, digits, underscores, hyphens or colons"
        raise InvalidRequest(message, param=SESSION_ID, code="invalid_session_id")
    user_id = read_user_id(request)
    session_id = named or new_uuid()
    request.state.session_id = session_id
    trace_context = {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}
    return RunRequest(
        {},
        session_id,
        assigned=named is None,
        user_id=user_id,
        request_id=request.state.request_id,
        headers=trace_context,
        history_rounds=_history_rounds(request),
    )


def read_user_id(request: Request) -> str | None:
    """Return the user id in the request's headers, if any; raises InvalidRequest for an invalid one."""
    # MySQL ignores trailing spaces in comparisons, so they are removed for every database.
    user_id = request.headers.get(USER_ID, "").strip() or None
    if user_id is not None:
        try:
            user_id = user_id.encode("latin-1").decode()  # Starlette decodes headers as Latin-1; user ids are UTF-8
        except UnicodeDecodeError:
            raise InvalidRequest(f"{USER_ID} is not UTF-8", param=USER_ID, code="invalid_user_id") from None
        if len(user_id) > _USER_ID_LENGTH:
            message = f"{USER_ID} may have at most {_USER_ID_LENGTH} characters"
            raise InvalidRequest(message, param=USER_ID, code="invalid_user_id")
    return user_id


def selected_user(request: Request, query_user: str | None = None) -> str | None:
    """Return the user to whose data a request is limited: the one in its header, or in its query, if any.

    Raises InvalidRequest if they name different users.
    """
    header_user = read_user_id(request)
    if header_user is not None and query_user is not None and header_user != query_user:
        raise InvalidRequest("user and the header Chat-User-Id name different users", param="user")
    return query_user if header_user is None else header_user


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns. If the client disconnects, `work` is cancelled and InvalidRequest raised."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnection(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise InvalidRequest("the client disconnected before it got an answer", code="client_disconnected")
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _history_rounds(request: Request) -> int | None:
    value = request.headers.get(HISTORY_ROUNDS)
    if value is None:
        return None
    if not (value.isdecimal() and len(value) <= _ROUNDS_DIGITS and int(value) <= MAX_ROUNDS):
        message = f"{HISTORY_ROUNDS} must be a number from 0 to {MAX_ROUNDS}"
        raise InvalidRequest(message, param=HISTORY_ROUNDS, code="invalid_history_rounds")
    return int(value)


def is_session_id(text: str) -> bool:
    """Return whether `text` is a valid session id."""
    return _SESSION_ID.fullmatch(text) is not None


def is_user_id(value: Any) -> bool:
    """Return whether `value` is a valid user id."""
    return isinstance(value, str) and 0 < len(value) <= _USER_ID_LENGTH and value == value.strip()


async def read_bytes(request: Request, limit: int) -> bytes:
    """Return the body; raises BodyTooLarge if it has more than `limit` bytes."""
    message = f"the body exceeds the limit of {limit} bytes (FLOWPOD_MAX_BODY_BYTES)"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(message)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise BodyTooLarge(message)
    except ClientDisconnect:
        raise InvalidRequest("the client disconnected before it sent the whole body", code="incomplete_body") from None
    return bytes(body)


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """Return the body, a JSON object of at most `limit` bytes.

    Raises BodyTooLarge, or InvalidRequest if the body is not a JSON object.
    """
    body = await read_bytes(request, limit)
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        problem = f"not valid JSON: {error}" if body else "empty; it must be a JSON object"
        raise InvalidRequest(f"the body is {problem}", code="invalid_json") from None
    return as_object(content)


def as_object(content: Any) -> dict[str, Any]:
    """Return `content`, the parsed body, if it is a JSON object; raises InvalidRequest otherwise."""
    if not isinstance(content, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {_json_type(content)}", code="invalid_json")
    return content


def read_model(model: type[Body], content: dict[str, Any]) -> Body:
    """Validate a body as `model`; raises InvalidRequest that names the first invalid field."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in detail["loc"])
        messages = {"missing": "is required", "model_type": "input should be an object"}  # pydantic names our classes
        problem = messages.get(detail["type"]) or detail["msg"][0].lower() + detail["msg"][1:]
        raise InvalidRequest(f"{field}: {problem}", param=field) from None


def check_count(value: Any) -> Any:
    """Return `value`; raises pydantic's error for a list of more than MAX_ITEMS."""
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        raise PydanticCustomError("count", f"Has {len(value)} items; at most {MAX_ITEMS} are accepted")
    return value


Limited = BeforeValidator(check_count)
"""Marks a list of a body that has at most MAX_ITEMS."""


def read_query(model: type[Body], request: Request) -> Body:
    """Validate the query as `model`; raises InvalidRequest that names the first invalid parameter."""
    return read_model(model, dict(request.query_params))


def _json_type(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]
