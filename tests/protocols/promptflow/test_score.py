"""promptflow's `/score`: content negotiation, JSON responses and streams."""

from pathlib import Path
from typing import Any

import pytest

from flowpod.api.promptflow.score import Accept
from tests.support.flows import client_of, post, service_of, write_flow
from tests.support.score import EITHER, STREAM, TOOL, echo_flow, error_of, frames


async def test_a_json_response_has_only_the_outputs(chat_flow: Path) -> None:
    response = await post(chat_flow, "/score", {"question": "hi", "chat_history": []})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.text == '{"answer":"You said: hi"}'


async def test_stream_is_data_only_with_an_empty_first_and_last_delta(chat_flow: Path) -> None:
    response = await post(chat_flow, "/score", {"question": "hi"}, headers=STREAM)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert response.content == b"".join(
        f'data: {{"answer":"{delta}"}}\n\n'.encode() for delta in ("", "You ", "said: ", "hi", "")
    )


async def test_outputs_that_do_not_stream_come_first_in_one_event(tmp_path: Path) -> None:
    """Even if one of them depends on the whole stream, and the stream is longer than the event queue."""
    dag = """
    inputs:
      text: {type: string}
    outputs:
      late: {type: string, reference: "${wait.output}"}
      talk: {type: string, reference: "${talk.output}"}
      given: {type: string, reference: "${inputs.text}"}
      score: {type: int, reference: "${wait.output}", evaluation_only: true}
    nodes:
    - {name: talk, type: python, source: {path: talk.py}}
    - {name: wait, type: python, source: {path: wait.py}, inputs: {text: "${talk.output}"}}
    """
    flow = write_flow(
        tmp_path,
        dag,
        {
            "talk.py": TOOL + "async def talk():\n    for _ in range(600):\n        yield 'a'\n",
            "wait.py": TOOL + "async def wait(text: str) -> str:\n    return text.upper()\n",
        },
    )
    async with client_of(flow) as client:
        streamed = await client.post("/score", json={"text": "hi"}, headers=STREAM)
        single = await client.post("/score", json={"text": "hi"})
    assert frames(streamed) == [{"late": "A" * 600, "given": "hi"}, *({"talk": d} for d in ("", *"a" * 600, ""))]
    assert single.text == f'{{"late":"{"A" * 600}","talk":"{"a" * 600}","given":"hi"}}'


async def test_the_events_held_before_a_stream_are_bounded(tmp_path: Path) -> None:
    dag = """
    outputs:
      late: {type: string, reference: "${wait.output}"}
      talk: {type: string, reference: "${talk.output}"}
    nodes:
    - {name: talk, type: python, source: {path: talk.py}}
    - {name: wait, type: python, source: {path: wait.py}}
    """
    flow = write_flow(
        tmp_path,
        dag,
        {
            "talk.py": TOOL + "async def talk():\n    while True:\n        yield 'a' * 2**16\n",
            "wait.py": TOOL + "async def wait() -> str:\n    import asyncio\n    await asyncio.sleep(60)\n",
        },
    )
    response = await post(flow, "/score", {}, headers=STREAM, max_output_chars=2**20)
    assert response.status_code == 400
    assert "its stream is longer than 1048576 characters" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        (None, 200, "application/json"),
        ("*/*", 200, "application/json"),
        ("application/*", 200, "application/json"),
        ("application/json", 200, "application/json"),
        ("text/event-stream", 200, "text/event-stream; charset=utf-8"),
        ("application/json, text/event-stream", 200, "text/event-stream; charset=utf-8"),
        ("Text/Event-Stream; q=0.5", 200, "text/event-stream; charset=utf-8"),
        ("text/event-stream;q=0, */*;q=0.1", 200, "application/json"),
        ("text/*", 406, "application/json"),
        ("text/html", 406, "application/json"),
    ],
)
async def test_accept_selects_the_format(chat_flow: Path, accept: str | None, status: int, kind: str) -> None:
    async with client_of(chat_flow) as client:
        del client.headers["Accept"]
        response = await client.post("/score", json={"question": "hi"}, headers={"Accept": accept} if accept else {})
    assert (response.status_code, response.headers["content-type"]) == (status, kind)
    if status == 406:
        error = error_of(response)
        assert error["code"] == "UserError"
        assert error["message"] == (
            f"the response can be text/event-stream or application/json, but Accept is {accept}"
        )


def test_several_accept_headers_are_one_list() -> None:
    assert Accept.from_headers(["text/html", "application/json, text/event-stream"]) == Accept(
        True, True, "text/html,application/json, text/event-stream"
    )


@pytest.mark.parametrize(("headers", "status"), [(STREAM, 406), (EITHER, 200), ({}, 200)])
async def test_a_flow_without_a_stream_has_only_json(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    ran = tmp_path / "ran"
    code = f"def echo(text: str) -> str:\n    open({str(ran)!r}, 'w').close()\n    return text\n"
    response = await post(echo_flow(tmp_path / "flow", code), "/score", {"text": "hi"}, headers=headers)
    assert response.status_code == status
    assert ran.exists() is (status == 200)
    if status == 406:
        expected = "the response can be application/json, but Accept is text/event-stream"
        assert error_of(response) == {"code": "UserError", "message": expected}
    else:
        assert response.json() == {"out": "hi"}


async def test_a_model_that_another_node_reads_does_not_stream(chat_flow: Path) -> None:
    dag = (chat_flow / "flow.dag.yaml").read_text()
    dag += '- {name: echo, type: python, source: {path: echo.py}, inputs: {text: "${reply.output}"}}\n'
    write_flow(chat_flow, dag, {"echo.py": TOOL + "def echo(text: str) -> str:\n    return text\n"})
    async with client_of(chat_flow) as client:
        refused = await client.post("/score", json={"question": "hi"}, headers=STREAM)
        unstreamed = await client.post("/score", json={"question": "hi"}, headers=EITHER)
    assert (refused.status_code, unstreamed.text) == (406, '{"answer":"You said: hi"}')


def two_streams(folder: Path, condition: str = "") -> Path:
    dag = f"""
    inputs:
      loud: {{type: bool, default: false}}
    outputs:
      quiet: {{type: string, reference: "${{quiet.output}}"}}
      loud: {{type: string, reference: "${{loud.output}}"}}
    nodes:
    - {{name: quiet, type: python, source: {{path: quiet.py}}{condition and ", " + condition % "false"}}}
    - {{name: loud, type: python, source: {{path: loud.py}}{condition and ", " + condition % "true"}}}
    """
    return write_flow(
        folder,
        dag,
        {
            "quiet.py": TOOL + "def quiet():\n    open('../ran', 'w').close()\n    yield 'hm'\n",
            "loud.py": TOOL + "def loud():\n    yield 'HM'\n",
        },
    )


@pytest.mark.parametrize("headers", [STREAM, EITHER])
async def test_two_streaming_outputs_are_400_for_a_stream_and_joined_in_json(
    tmp_path: Path, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = two_streams(tmp_path / "flow")
    monkeypatch.chdir(flow)
    async with client_of(flow) as client:
        refused = await client.post("/score", json={}, headers=headers)
        assert not (tmp_path / "ran").exists()
        joined = await client.post("/score", json={})
    assert refused.status_code == 400
    expected = "only one output can be streamed, but quiet and loud would be; send Accept: application/json"
    assert error_of(refused) == {"code": "UserError", "message": expected}
    assert joined.json() == {"quiet": "hm", "loud": "HM"}


async def test_a_condition_can_leave_one_of_two_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = two_streams(tmp_path / "flow", 'activate: {when: "${inputs.loud}", is: %s}')
    monkeypatch.chdir(flow)
    async with client_of(flow) as client:
        quiet = await client.post("/score", json={"loud": False}, headers=STREAM)
        loud = await client.post("/score", json={"loud": True}, headers=STREAM)
    assert frames(quiet) == [{"loud": None}, *({"quiet": delta} for delta in ("", "hm", ""))]
    assert frames(loud) == [{"quiet": None}, *({"loud": delta} for delta in ("", "HM", ""))]


SOMETIMES = "def echo(text):\n    return iter(text) if text == text.lower() else text\n"


@pytest.mark.parametrize(
    ("headers", "text", "status", "expected"),
    [
        (STREAM, "ab", 200, [{"out": ""}, {"out": "a"}, {"out": "b"}, {"out": ""}]),
        (EITHER, "ab", 200, [{"out": ""}, {"out": "a"}, {"out": "b"}, {"out": ""}]),
        ({}, "ab", 200, {"out": "ab"}),
        (EITHER, "AB", 200, {"out": "AB"}),
        (STREAM, "AB", 406, None),
    ],
)
async def test_a_function_streams_if_it_returns_a_generator(
    tmp_path: Path, headers: dict[str, str], text: str, status: int, expected: Any
) -> None:
    response = await post(echo_flow(tmp_path, SOMETIMES), "/score", {"text": text}, headers=headers)
    assert response.status_code == status
    if isinstance(expected, list):
        assert frames(response) == expected
    elif expected is not None:
        assert response.json() == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(text): yield text", {"out": True}),
        ("async def f(text): yield text", {"out": True}),
        ("def f(text): return text", {"out": False}),
        ("def f(text) -> 'Iterator[str]': return text", {"out": False}),
        ("def f(text) -> any: return text", {"out": False}),
        ("def f(text) -> str: return text", {}),
        ("async def f(text) -> dict: return {}", {}),
        ("def f(text) -> None: return None", {}),
    ],
)
async def test_streaming_outputs_are_known_at_load(tmp_path: Path, code: str, expected: dict[str, bool]) -> None:
    async with service_of(echo_flow(tmp_path, code)) as service:
        assert service.streams == expected
