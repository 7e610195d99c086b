"""What a server under measurement is, and how it is asked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.bench.load import Ask

Mode = Literal["stream", "whole"]
_STREAM = {"accept": "text/event-stream"}


@dataclass(frozen=True)
class Place:
    """Where a server runs: its port, the model's base URL, and a folder of its own."""

    port: int
    model: str
    folder: Path


@dataclass(frozen=True)
class Server:
    """A program to measure. A subclass says how it is started and asked."""

    name: str
    endpoints: tuple[str, ...] = ("/",)

    def command(self, place: Place) -> list[str]:
        """Return the command that serves on `place.port`, after whatever must be there first.

        Raises AssertionError when the server is not installed.
        """
        raise NotImplementedError

    def environment(self, place: Place) -> dict[str, str]:
        """Return the environment in which the command runs."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return kept | {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": place.model}

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        """Return the request for an answer, streamed or whole."""
        return simple_ask(question, mode)


def simple_ask(question: str, mode: Mode, headers: Mapping[str, str] | None = None) -> Ask:
    """Ask a server that takes `{"question"}` and answers `{"answer"}`, or events of that."""
    accept = _STREAM if mode == "stream" else {}
    return Ask("/", {"question": question}, '"answer": ?"([^"]+)"', {**accept, **(headers or {})})


def openai_ask(
    question: str, mode: Mode, headers: Mapping[str, str] | None = None, path: str = "/v1/chat/completions"
) -> Ask:
    """Ask a server of OpenAI's chat completions."""
    messages = [{"role": "user", "content": question}]
    body: dict[str, Any] = {"model": "mock", "messages": messages, "stream": mode == "stream"}
    return Ask(path, body, '"content": ?"([^"]+)"', dict(headers or {}))
