"""Explains why a call of a model failed: one NodeError for each kind of failure."""

from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import ContentEncodingError

from flowpod.errors import NodeError, shorten

MAX_REDIRECTS = 5
FAILURES = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError)
"""What aiohttp raises when a request or its response fails."""
_SHOWN_CHARS = 500


def call_failure(error: BaseException, where: str, timeout_s: float, *, responded: bool) -> NodeError:
    """Return the error for one of FAILURES. `responded`: the head of the response had arrived."""
    causes = _causes(error)
    if any(isinstance(cause, TimeoutError) for cause in causes):
        message = f"{where}: the model was silent for {timeout_s:g} s (the connection's timeout_s)"
        return NodeError(message, code="model_timeout")
    if isinstance(error, aiohttp.TooManyRedirects):
        message = f"{where}: the model's server redirects more than {MAX_REDIRECTS} times"
        return NodeError(message, code="model_too_many_redirects")
    if reason := _invalid_http(causes):
        message = f"{where}: the model's server sent bytes that are not valid HTTP: {reason}"
        return NodeError(message, code="model_invalid_http")
    if responded:
        return NodeError(f"{where}: the model broke off its answer: {_text_of(causes)}", code="model_broke_off")
    return NodeError(f"{where}: cannot be reached: {_text_of(causes)}", code="model_unreachable")


def unknown_encoding(where: str, encoding: str) -> NodeError:
    """Return the error for a response that is compressed in a way that was not asked for."""
    text = f"{where}: the model's server sent bytes that are not valid HTTP: Content-Encoding {encoding[:100]!r}"
    return NodeError(text, code="model_invalid_http")


def status_failure(where: str, status: int, reason: str, body: bytes) -> NodeError:
    """Return the error for a response with an error status; `body` is the beginning of its body."""
    message = f"{where}: the model answered {status}: {_message_of(body) or reason}"
    return NodeError(message, code="model_error", plain=f"the model answered with status {status}")


def _message_of(body: bytes) -> str:
    """Return the message of an error, in OpenAI's form or flat, or else the text of the body."""
    try:
        content: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        content = None
    if isinstance(content, dict):
        error: Any = content.get("error")
        message = (error if isinstance(error, dict) else content).get("message")
        if isinstance(message, str):
            return shorten(message)
    return body.decode(errors="replace")[:_SHOWN_CHARS].strip()


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, the first cause last."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    return causes


def _invalid_http(causes: Sequence[BaseException]) -> str:
    """Return what is wrong with bytes that are not HTTP, or ""; without the request, which aiohttp's text names."""
    # A body that ends too early has a cause of the same kind, unless it cannot be decompressed.
    ended_early = isinstance(causes[0], aiohttp.ClientPayloadError)
    kinds = (ContentEncodingError,) if ended_early else (aiohttp.ClientResponseError, HttpProcessingError)
    for error in causes:
        if isinstance(error, kinds):
            return shorten(error.message.strip().partition("\n")[0].removesuffix(":")) or type(error).__name__
    return ""


def _text_of(causes: Sequence[BaseException]) -> str:
    """Return the text of the first cause that comes from the system: other texts may quote the request, and its key."""
    return next((str(cause) for cause in reversed(causes) if isinstance(cause, OSError)), type(causes[-1]).__name__)
