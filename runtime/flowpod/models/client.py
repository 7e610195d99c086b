"""The `openai` client of a connection: one client and its pool, shared by all runs."""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAioHttpClient

from flowpod.errors import BuildError
from flowpod.flow.model import Connection
from flowpod.telemetry.model_call import CALL

MAX_REDIRECTS = 5
_CONNECT_TIMEOUT_S = 10
_MAX_REFUSAL_BYTES = 64 * 1024
_DEFAULT_BASE_URLS = {"open_ai": "https://api.openai.com/v1", "dashscope": "https://dashscope.aliyuncs.com/api/v1"}
_NO_LIMIT = httpx2.Limits(max_connections=0)  # no limit, for aiohttp: the process limits its runs, not their calls
_NO_KEY = "none"  # the client insists on a key, servers that need none ignore it


@dataclass(frozen=True, slots=True)
class Client:
    """A client, its name in messages, and the host (and port) that it calls."""

    api: AsyncOpenAI
    where: str
    address: str


def client_of(connection: Connection) -> Client:
    """Return the client of a connection whose type has a model. Raises BuildError for an invalid address or key."""
    fields = connection.fields
    key = "base_url" if connection.type in _DEFAULT_BASE_URLS else "api_base"
    address = str(fields[key]) or _DEFAULT_BASE_URLS.get(connection.type, "")
    if not _is_address(address):
        text = f"connection {connection.name!r}: its {key} is not an address such as https://example.com/v1"
        raise BuildError("connection", text)
    if not (str(fields["api_key"]).isascii() and str(fields["api_key"]).isprintable()):
        text = f"connection {connection.name!r}: its api_key has characters that a header must not have"
        raise BuildError("connection", text)
    address, headers = _credentials_as_header(address)
    timeout = httpx2.Timeout(float(fields["timeout_s"]), connect=_CONNECT_TIMEOUT_S)
    # With aiohttp a streamed answer costs half of what it costs with the client's own transport.
    http_client = DefaultAioHttpClient(
        timeout=timeout,
        limits=_NO_LIMIT,
        max_redirects=MAX_REDIRECTS,
        event_hooks={"request": [_note_retry], "response": [_truncate_refusal]},
    )
    common: dict[str, Any] = {
        "api_key": str(fields["api_key"]) or _NO_KEY,
        "timeout": timeout,
        "max_retries": int(fields["max_retries"]),
        "http_client": http_client,
        "default_headers": headers,
    }
    api: AsyncOpenAI
    if connection.type == "azure_open_ai":
        api = AsyncAzureOpenAI(azure_endpoint=address, api_version=str(fields["api_version"]), **common)
    else:
        if connection.type == "serverless" and not address.endswith("/v1"):
            address = f"{address.rstrip('/')}/v1"
        api = AsyncOpenAI(base_url=address, organization=str(fields.get("organization", "")) or None, **common)
    where = f"connection {connection.name!r} ({address.partition('?')[0]})"
    return Client(api, where, urlsplit(address).netloc)


async def _note_retry(request: httpx2.Request) -> None:
    """Record on the call's span that the client retries a request; a header of the client counts the retries."""
    attempt, call = request.headers.get("x-stainless-retry-count", "0"), CALL.get()
    if attempt != "0" and call is not None:
        call.add_retry(int(attempt))


async def _truncate_refusal(response: httpx2.Response) -> None:
    """Keep only the start of the body of an error or a redirect: the client would read and keep all of it."""
    if response.status_code < 300:
        return
    body = httpx2.Response(
        response.status_code, headers=response.headers, stream=response.stream, request=response.request
    )
    content = bytearray()
    try:
        async for piece in body.aiter_bytes():
            content += piece
            if len(content) >= _MAX_REFUSAL_BYTES:
                break
    finally:
        await body.aclose()
    response.headers.pop("content-encoding", None)
    response.stream = httpx2.ByteStream(bytes(content[:_MAX_REFUSAL_BYTES]))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _credentials_as_header(url: str) -> tuple[str, dict[str, str]]:
    """Return the address without user and password, and the header that carries them instead."""
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    basic = b64encode(unquote(credentials).encode()).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {basic}"}
