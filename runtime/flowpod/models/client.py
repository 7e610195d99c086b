"""The HTTP client of a connection: its address and headers, its retries, and one pool of connections.

The openai package would take a good part of the CPU time of a run for its requests, and a third of a process's start
for its import.
"""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import certifi

from flowpod import __version__
from flowpod.errors import BuildError, NodeError
from flowpod.flow.model import Connection
from flowpod.jsonable import dumps
from flowpod.models.failures import FAILURES, MAX_REDIRECTS, call_failure, status_failure, unknown_encoding
from flowpod.models.retries import should_retry, wait_before_retry
from flowpod.telemetry.model_call import CALL

_CONNECT_TIMEOUT_S = 10
_MAX_REFUSAL_BYTES = 64 * 1024
_DEFAULT_BASE_URLS = {"open_ai": "https://api.openai.com/v1", "dashscope": "https://dashscope.aliyuncs.com/api/v1"}
_AZURE_DEPLOYMENT_PATHS = ("/chat/completions", "/completions")
_REDIRECT = 300
_ENCODINGS = ("identity", "gzip", "deflate", "br", "zstd")  # that aiohttp decodes, or refuses by name
_RETRIED_CODES = ("model_unreachable", "model_timeout")


class ModelClient:
    """Sends the requests of one connection; all runs share it.

    `where` names the connection in messages, `address` is the host (and port) that is called. Raises BuildError for an
    invalid address or key.
    """

    def __init__(self, connection: Connection) -> None:
        fields = connection.fields
        url = _base_url(connection)
        key = str(fields["api_key"])
        if not (key.isascii() and key.isprintable()):
            text = f"connection {connection.name!r}: its api_key has characters that a header must not have"
            raise BuildError("connection", text)
        url, credentials = _credentials_as_header(url)
        azure = connection.type == "azure_open_ai"
        base, _, query = url.partition("?")
        if azure:
            query = "&".join(filter(None, (query, f"api-version={quote(str(fields['api_version']))}")))
        self.where = f"connection {connection.name!r} ({base})"
        self.address = urlsplit(url).netloc
        self._base = f"{base.rstrip('/')}/openai" if azure else base.rstrip("/")
        self._query = f"?{query}" if query else ""
        self._by_deployment = azure
        self._headers = {
            "User-Agent": f"flowpod/{__version__}",
            "Accept": "application/json",
            "Content-Type": "application/json",
            **_key_header(connection.type, key),
            **({"OpenAI-Organization": str(organization)} if (organization := fields.get("organization")) else {}),
            **credentials,
        }
        self._timeout_s = float(fields["timeout_s"])
        self._max_retries = int(fields["max_retries"])
        self._proxy = _proxy_of(url)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send a request and provide its response, whose body is not read yet. Raises NodeError for a failure.

        A request that gets no response, or a status that allows it, is sent again.
        """
        response = await self._send(self._url(path, body), dumps(body), headers)
        try:
            if (encoding := response.headers.get("Content-Encoding", "identity")).lower() not in _ENCODINGS:
                raise unknown_encoding(self.where, encoding)
            yield response
        except FAILURES as error:
            raise call_failure(error, self.where, self._timeout_s, responded=True) from error
        finally:
            response.release()  # the connection returns to the pool if the body was read to its end

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    async def _send(self, url: str, data: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        for retry in count():
            outcome = await self._attempt(url, data, headers, retry)
            if isinstance(outcome, aiohttp.ClientResponse):
                return outcome
            if outcome.wait_s is None or retry == self._max_retries:
                raise outcome.error from outcome.cause
            if (call := CALL.get()) is not None:
                call.add_retry(retry + 1)
            await asyncio.sleep(outcome.wait_s)
        raise AssertionError  # the loop has no end

    async def _attempt(
        self, url: str, data: bytes, headers: Mapping[str, str], retry: int
    ) -> "aiohttp.ClientResponse | _Refusal":
        try:
            response = await self._opened_session().post(
                url, data=data, headers=headers, proxy=self._proxy, max_redirects=MAX_REDIRECTS
            )
        except FAILURES as error:
            failure = call_failure(error, self.where, self._timeout_s, responded=False)
            return _Refusal(failure, wait_before_retry(retry) if failure.code in _RETRIED_CODES else None, error)
        if response.status < _REDIRECT:
            return response
        try:
            start = await _start_of(response)
        except FAILURES as error:
            return _Refusal(call_failure(error, self.where, self._timeout_s, responded=True), None, error)
        finally:
            response.release()
        failure = status_failure(self.where, response.status, response.reason or "", start)
        retriable = should_retry(response.status, response.headers)
        return _Refusal(failure, wait_before_retry(retry, response.headers) if retriable else None)

    def _url(self, path: str, body: Mapping[str, Any]) -> str:
        if self._by_deployment and path in _AZURE_DEPLOYMENT_PATHS:
            path = f"/deployments/{quote(str(body['model']), safe='')}{path}"
        return f"{self._base}{path}{self._query}"

    def _opened_session(self) -> aiohttp.ClientSession:
        """Return the session; it is created on the event loop that runs the flow."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=_tls_context() if self._base.startswith("https") else True),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT_TIMEOUT_S, sock_read=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A request that failed, and the seconds to wait before it may be sent again; None if it must not be."""

    error: NodeError
    wait_s: float | None
    cause: BaseException | None = None


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of a body, and read as much of it only."""
    start = bytearray()
    async for data in response.content.iter_any():
        start += data
        if len(start) >= _MAX_REFUSAL_BYTES:
            break
    return bytes(start[:_MAX_REFUSAL_BYTES])


def _base_url(connection: Connection) -> str:
    key = "base_url" if connection.type in _DEFAULT_BASE_URLS else "api_base"
    url = str(connection.fields[key]) or _DEFAULT_BASE_URLS.get(connection.type, "")
    if not _is_address(url):
        text = f"connection {connection.name!r}: its {key} is not an address such as https://example.com/v1"
        raise BuildError("connection", text)
    if connection.type == "serverless" and not url.endswith("/v1"):
        return f"{url.rstrip('/')}/v1"
    return url


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


def _key_header(connection_type: str, key: str) -> dict[str, str]:
    if not key:
        return {}
    return {"api-key": key} if connection_type == "azure_open_ai" else {"Authorization": f"Bearer {key}"}


def _proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    parts, proxies = urlsplit(url), getproxies()
    if proxy_bypass(parts.hostname or ""):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


def _tls_context() -> ssl.SSLContext:
    """Return the context for TLS: certifi's authorities, unless the environment names others (SSL_CERT_FILE, _DIR)."""
    paths = ssl.get_default_verify_paths()
    named = {paths.cafile, paths.capath} - {None, paths.openssl_cafile, paths.openssl_capath}
    return ssl.create_default_context(cafile=None if named else certifi.where())
