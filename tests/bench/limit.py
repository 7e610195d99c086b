"""The limits: the least that a server of Starlette and aiohttp can do between a client and the model.

    python -m tests.bench.limit events http://127.0.0.1:9000/v1 --port 8080

`events` parses every event of the model and writes its text as one of its own, `batched` does so with one write for all
events of one read, `bytes` passes on what it reads. None keeps a history, makes spans, or knows what a flow is.
"""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


class Limit:
    """The endpoint: `{"question": ...}` in, `{"answer": ...}` or a stream of them out."""

    def __init__(self, kind: str, model: str) -> None:
        self._kind = kind
        self._url = f"{model}/chat/completions"

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Keep one pool of connections, without a limit."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
            yield

    async def answer(self, request: Request) -> Response:
        """Ask the model."""
        question = orjson.loads(await request.body())["question"]
        streaming = "text/event-stream" in request.headers.get("accept", "")
        body = {"model": "mock", "messages": [{"role": "user", "content": question}], "stream": streaming}
        if streaming:
            return StreamingResponse(self._streamed(body), media_type="text/event-stream")
        async with self._session.post(self._url, json=body) as response:
            content = orjson.loads(await response.read())
        answer = {"answer": content["choices"][0]["message"]["content"]}
        return Response(orjson.dumps(answer), media_type="application/json")

    async def _streamed(self, body: dict[str, object]) -> AsyncIterator[bytes]:
        async with self._session.post(self._url, json=body) as response:
            rest = b""
            async for piece in response.content.iter_any():
                if self._kind == "bytes":
                    yield piece
                    continue
                *lines, rest = (rest + piece).split(b"\n")
                frames = [frame for line in lines if (frame := _frame(line))]
                if self._kind == "batched":
                    frames = [b"".join(frames)] if frames else []
                for frame in frames:
                    yield frame


def _frame(line: bytes) -> bytes:
    if not line.startswith(b"data: {"):
        return b""
    choices = orjson.loads(line[6:])["choices"]
    text = choices[0]["delta"].get("content") if choices else None
    return b"data: " + orjson.dumps({"answer": text}) + b"\n\n" if text else b""


def main() -> None:
    """Serve on the loopback address."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("events", "batched", "bytes"))
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    limit = Limit(options.kind, options.model)
    app = Starlette(routes=[Route("/", limit.answer, methods=["POST"])], lifespan=limit.lifespan)
    uvicorn.run(
        app, port=options.port, access_log=False, log_level="warning", loop="uvloop", http="httptools", ws="none"
    )


if __name__ == "__main__":
    main()
