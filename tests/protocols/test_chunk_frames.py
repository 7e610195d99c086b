"""Chunks that the engine merged into one event have the same frames as if each had come alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from flowpod.api.dashscope.application_encoder import ApplicationEncoder
from flowpod.api.dashscope.generation import GenerationEncoder
from flowpod.api.native.complete import Encoder, ResponseConfig
from flowpod.api.native.simple import SimpleEncoder
from flowpod.api.openai.chat import ChatEncoder
from flowpod.api.openai.responses_events import ResponseEvents
from flowpod.api.promptflow.score import ScoreStreamEncoder
from flowpod.engine.events import Event, RunOutput, RunStarted, RunTerminated

RUN = "3f2b8f0e-2f0a-4f5c-9a53-0f1e2d3c4b5a"
NOW = datetime(2026, 5, 1, tzinfo=UTC)
DETAILS: dict[str, Any] = {
    "created_at": 1,
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "model": "flow",
    "previous_response_id": None,
    "store": True,
    "temperature": None,
    "top_p": None,
    "user": None,
    "metadata": {},
}
TEXTS = {
    "words": ["one", " two", " three"],
    "what JSON escapes": ['"quoted"', "back\\slash", "a\nline", "é", "😀"],
    "half an emoji": ["\ud83d", "\ude00"],
}
Encode = Callable[[Event], bytes]


def application(*, incremental: bool) -> Encode:
    return ApplicationEncoder(
        output="answer",
        session_id="s",
        request_id="r",
        node_types={"reply": "LLM"},
        default_model="m",
        mode="full_thoughts",
        has_thoughts=True,
        incremental=incremental,
        flags_as_text=False,
    ).encode


ENCODERS: dict[str, Callable[[], Encode]] = {
    "simple mode": lambda: SimpleEncoder().encode,
    "complete mode": lambda: Encoder(ResponseConfig()).encode,
    "chat completions": lambda: ChatEncoder("flow", "answer", "chatcmpl-1", True, created=1).encode,
    "responses": lambda: ResponseEvents(RUN, "answer", DETAILS).encode,
    "score": lambda: ScoreStreamEncoder("answer", {}).encode,
    "application call": lambda: application(incremental=True),
    "application call, cumulative": lambda: application(incremental=False),
    "generation": lambda: GenerationEncoder("answer", "r", "message", True).encode,
    "generation, cumulative": lambda: GenerationEncoder("answer", "r", "text", False).encode,
}


def chunk(text: str, reasoning: str = "", lengths: Sequence[int] = ()) -> RunOutput:
    return RunOutput(RUN, "reply", "n", "answer", text, True, "Streaming", reasoning, tuple(lengths), NOW)


def frames_of(encode: Encode, chunks: Sequence[RunOutput]) -> bytes:
    events: list[Event] = [RunStarted(RUN, "", NOW), *chunks, RunTerminated(RUN, "Completed", "", timestamp=NOW)]
    return b"".join(map(encode, events))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("kind", ["text", "reasoning"])
@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_merged_chunks_have_the_frames_of_each(name: str, kind: str, texts: list[str]) -> None:
    single = [chunk(text) if kind == "text" else chunk("", text) for text in texts]
    whole = "".join(texts)
    merged = chunk(whole if kind == "text" else "", "" if kind == "text" else whole, [len(text) for text in texts])
    assert frames_of(ENCODERS[name](), [merged]) == frames_of(ENCODERS[name](), single)


def test_a_merged_event_can_be_split() -> None:
    merged = chunk("one two", "", [3, 4])
    assert merged.split_chunks() == [replace(merged, delta=text, chunk_lengths=()) for text in ("one", " two")]
