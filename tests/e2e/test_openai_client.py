"""The real openai package against the served command."""

from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.support.flows import SESSION, write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.serving import serving

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


def test_streaming_and_not_with_a_token(tmp_path: Path, chat_flow: Path) -> None:
    with (
        serving(chat_flow, tmp_path, FLOWPOD_TOKENS="secret,other") as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="other") as client,
    ):
        whole = client.chat.completions.create(model="any", messages=HI)
        assert whole.choices[0].message.content == "You said: hi"
        assert whole.usage is not None
        assert whole.usage.total_tokens == 18
        chunks = list(
            client.chat.completions.create(
                model="any", messages=HI, stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "You said: hi"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage is not None
        assert {c.id for c in chunks} == {chunks[0].id}
        assert [model.id for model in client.models.list()] == ["flow", "default"]


def test_a_wrong_token_and_a_bad_request_are_told_apart(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path, FLOWPOD_TOKENS="secret") as served:
        with (
            openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError, match="the token is not valid"),
        ):
            client.chat.completions.create(model="any", messages=HI)
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="secret") as client:
            with pytest.raises(openai.BadRequestError, match="the last message must be the user's") as caught:
                client.chat.completions.create(model="any", messages=[{"role": "assistant", "content": "hi"}])
            assert caught.value.param == "messages.0.role"
            assert caught.value.request_id


def test_a_failed_run_is_not_repeated_by_the_client(tmp_path: Path, model_server: ModelServer) -> None:
    model = "fail:500"
    flow = write_chat_flow(tmp_path / "flow", model_server.url, model)
    with serving(flow, tmp_path) as served, openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        before = len(model_server.calls_of(model))
        with pytest.raises(openai.APIStatusError, match="the model answered with status 500") as caught:
            client.chat.completions.create(model="any", messages=HI)
        assert (caught.value.status_code, len(model_server.calls_of(model))) == (424, before + 1)


def test_an_error_in_the_middle_of_a_stream_is_raised(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "break-off")
    with serving(flow, tmp_path) as served, openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(model="any", messages=HI, stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "only ha"]
        with pytest.raises(openai.APIError, match="broke off"):
            next(stream)


def test_a_session_by_header(tmp_path: Path, chat_flow: Path, model_server: ModelServer) -> None:
    with (
        serving(chat_flow, tmp_path) as served,
        openai.OpenAI(
            base_url=f"{served.url}/v1", api_key="none", default_headers={"Chat-Session-Id": SESSION}
        ) as client,
    ):
        for text in (f"first {tmp_path.name}", f"second {tmp_path.name}"):
            raw = client.chat.completions.with_raw_response.create(
                model="any", messages=[{"role": "user", "content": text}]
            )
            assert raw.headers["chat-session-id"] == SESSION
    sent = next(c for c in model_server.calls if c.question == f"second {tmp_path.name}")
    assert len(sent.body["messages"]) == 4
