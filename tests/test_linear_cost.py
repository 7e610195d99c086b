"""Twice as many bytes from outside cost each reader at most about twice the CPU time."""

import gc
import json
import math
import time
from collections.abc import Callable
from functools import partial
from itertools import count as numbers
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from flowpod.api.dashscope.application import ApplicationBody
from flowpod.api.dashscope.generation import GenerationBody, GenerationEncoder
from flowpod.api.http.outcome import Outcome
from flowpod.api.http.pagination import NUMBER, decode_cursor
from flowpod.api.http.requests import MAX_ITEMS, read_model
from flowpod.api.native.complete import RunBody
from flowpod.api.openai.chat import ChatBody
from flowpod.api.openai.messages import Message, read_conversation
from flowpod.api.openai.responses_events import ResponseEvents
from flowpod.api.openai.responses_input import Item, ResponseBody, resolve_references
from flowpod.api.promptflow.score import Accept, _feedback_attributes
from flowpod.background.event_json import event_from_json, event_to_json, merge_chunks
from flowpod.content.images import ImageRules, PromptImages
from flowpod.content.jinja import parse_template
from flowpod.content.prompt_messages import split_messages
from flowpod.engine.events import RunOutput
from flowpod.errors import InvalidRequest
from flowpod.flow.document.located_yaml import Source
from flowpod.flow.load.connections import load_connections
from flowpod.flow.load.pack import pack
from flowpod.flow.values import coerce
from flowpod.jsonable import dumps, is_longer_than, is_too_deep
from flowpod.models.answer_reader import AnswerReader
from flowpod.models.dashscope import DashScopeModel
from flowpod.models.openai_chat import ChatCompletionsModel
from flowpod.models.openai_responses import ResponsesModel
from flowpod.telemetry.content import Content
from flowpod.telemetry.messages import input_messages, output_message
from flowpod.telemetry.redaction import RunSecrets, Secrets, redact_value
from tests.support.model_wires import ChatWire, DashScopeWire, ResponsesWire, Wire

LIMIT = 2.6
LEAST_S = 0.05
TRIES, MAX_TRIES = 3, 12
Read = Callable[[], object]
IMAGE = {"data:image/png;base64": "aGk="}


def messages(count: int, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": "hi"}, *[{"role": "user", "content": "hi"}] * (count - 1)]


def many_conversations(count: int) -> Read:
    """`count` messages in the largest bodies that are accepted."""
    bodies = [{"messages": messages(MAX_ITEMS)}] * (count // MAX_ITEMS)
    return lambda: [read_conversation(read_model(ChatBody, body).messages) for body in bodies]


def one_role(count: int) -> Read:
    spoken = [Message.model_construct(role="user", content=("hi",))] * count
    return lambda: read_conversation(spoken)


def two_roles(count: int) -> Read:
    turn = [Message.model_construct(role=role, content=("hi",)) for role in ("assistant", "user")]
    spoken = turn * (count // 2)
    return lambda: read_conversation(spoken)


def response_items(count: int) -> Read:
    bodies = [{"input": messages(MAX_ITEMS)}] * (count // MAX_ITEMS)

    def read(body: dict[str, Any]) -> object:
        items: tuple[Item, ...] = read_model(ResponseBody, body).input
        return read_conversation(resolve_references(items, {}))

    return lambda: [read(body) for body in bodies]


def application_messages(count: int) -> Read:
    bodies = [{"input": {"messages": messages(MAX_ITEMS)}}] * (count // MAX_ITEMS)
    return lambda: [read_model(ApplicationBody, body).input.conversation() for body in bodies]


def application_history(count: int) -> Read:
    history = [{"user": "hi", "bot": ""}] * MAX_ITEMS
    bodies = [{"input": {"prompt": "hi", "history": history}}] * (count // MAX_ITEMS)
    return lambda: [read_model(ApplicationBody, body).input.conversation() for body in bodies]


def generation_messages(count: int) -> Read:
    bodies = [{"input": {"messages": messages(MAX_ITEMS)}}] * (count // MAX_ITEMS)
    return lambda: [read_model(GenerationBody, body).input.conversation() for body in bodies]


def invalid_messages(count: int) -> Read:
    bodies = [{"messages": [{"role": "nobody", "content": 7}] * MAX_ITEMS}] * (count // MAX_ITEMS)
    return lambda: [refused(partial(read_model, ChatBody, body)) for body in bodies]


def refused(read: Read) -> object:
    with pytest.raises(InvalidRequest) as caught:
        read()
    return caught.value


def text_of_a_data_url(size: int) -> Read:
    part = {"type": "image_url", "image_url": {"url": "data:image/" + "a" * size}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    return lambda: read_model(ChatBody, body)


def content_parts(count: int) -> Read:
    parts = [{"type": "text", "text": "hi"}] * MAX_ITEMS
    body = {"messages": [{"role": "user", "content": parts}] * (count // MAX_ITEMS)}
    return lambda: read_conversation(read_model(ChatBody, body).messages)


def image_that_is_not_base64(size: int) -> Read:
    return lambda: ImageRules().checked("A" * size + "==", is_image=True)


def run_inputs(count: int) -> Read:
    body = {"inputs": {f"k{number}": [number] for number in range(count)}}
    return lambda: [coerce(value, "list") for value in (read_model(RunBody, body).inputs or {}).values()]


def json_text(count: int) -> Read:
    text = json.dumps([[number] for number in range(count)])
    return lambda: coerce(text, "list")


def long_number(size: int) -> Read:
    return lambda: coerce("0." + "1" * size, "double")


def accept_header(size: int) -> Read:
    return lambda: Accept.from_headers(["a;q=0," * size])


def cursor(size: int) -> Read:
    return lambda: refused(lambda: decode_cursor("1" * size, NUMBER))


def feedback(count: int) -> Read:
    bodies = [dumps({f"k{number}": 1 for number in range(1000)})] * (count // 1000)
    return lambda: [_feedback_attributes(body, True) for body in bodies]


def api(wire: Wire) -> type[AnswerReader]:
    models = {ChatWire: ChatCompletionsModel, ResponsesWire: ResponsesModel, DashScopeWire: DashScopeModel}
    return models[type(wire)].reader


def stream_of(wire: Wire, *, reasoning: bool = False) -> Callable[[int], Read]:
    def made(count: int) -> Read:
        stream = wire.text("hi", reasoning=reasoning) * count
        return lambda: fed(api(wire), stream, 4096)

    return made


def fed(reader: type[AnswerReader], stream: bytes, piece: int) -> object:
    made = reader("here", "m")
    return [chunk for at in range(0, len(stream), piece) for chunk in made.feed(stream[at : at + piece])]


def long_event(size: int) -> Read:
    stream = ChatWire().text("x" * size)
    return lambda: fed(api(ChatWire()), stream, 1024)


def event_of_many_lines(count: int) -> Read:
    stream = b"data: 1\n" * count
    return lambda: fed(api(ChatWire()), stream, 1024)


def whole_answer(wire: Wire) -> Callable[[int], Read]:
    def made(size: int) -> Read:
        body = json.dumps(wire.whole({"parameters": {}}, "x" * size, "y" * size)).encode()

        def read() -> object:
            reader = api(wire)("here", "m")
            for at in range(0, len(body), 1024):
                reader.feed_body(body[at : at + 1024])
            return reader.read_whole()

        return read

    return made


def answer_of_tool_calls(count: int) -> Read:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": "c", "type": "function", "function": function}] * count
    body = json.dumps({"choices": [{"message": {"role": "assistant", "tool_calls": calls}}]}).encode()

    def read() -> object:
        reader = api(ChatWire())("here", "m", "tools")
        reader.feed_body(body)
        return reader.read_whole()

    return read


def chunks(count: int, *, reasoning: bool = False) -> list[RunOutput]:
    text, thought = ("", "hi " * 100) if reasoning else ("hi " * 100, "")
    return [RunOutput("r", "n", "i", "answer", text, True, "Streaming", thought)] * count


def outcome_of(*, reasoning: bool) -> Callable[[int], Read]:
    def made(count: int) -> Read:
        events = chunks(count, reasoning=reasoning)

        def read() -> object:
            outcome = Outcome()
            for event in events:
                outcome.add_event(event)
            outcome.settle()
            return outcome

        return read

    return made


def response_events(count: int) -> Read:
    events = chunks(count)
    names = ("created_at", "background", "instructions", "max_output_tokens", "model", "previous_response_id", "store")
    details = dict.fromkeys((*names, "temperature", "top_p", "user", "metadata"))

    def read() -> object:
        made = ResponseEvents("r", "answer", details)
        for event in events:
            made.add_event(event)
        return made.response

    return read


def dashscope_frames(count: int) -> Read:
    events = chunks(count)

    def read() -> object:
        encoder = GenerationEncoder("answer", "r", "text", incremental=True)
        return [encoder.encode(event) for event in events]

    return read


def merged_events(count: int) -> Read:
    return lambda: merge_chunks(chunks(count))


def stored_events(count: int) -> Read:
    stored = json.loads(dumps([event_to_json(event) for event in merge_chunks(chunks(count))]))
    return lambda: [event.split_chunks() for one in stored if isinstance(event := event_from_json(one), RunOutput)]


def yaml_file(folder: Path) -> Callable[[int], Read]:
    def made(count: int) -> Read:
        path = folder / f"{count}.yaml"
        path.write_text("".join(f"k{number}: {{a: [1, 2]}}\n" for number in range(count)))
        return lambda: Source(path)

    return made


def connections(folder: Path) -> Callable[[int], Read]:
    def made(count: int) -> Read:
        flow = folder / f"flow{count}"
        flow.mkdir()
        lines = [f"c{number}: {{type: open_ai, api_key: '${{env:KEY:-a}}'}}\n" for number in range(count)]
        (flow / "connections.yaml").write_text("".join(lines))
        return lambda: load_connections(flow, {})

    return made


def requirements(folder: Path) -> Callable[[int], Read]:
    def made(size: int) -> Read:
        flow, targets = folder / f"pack{size}", numbers()
        flow.mkdir()
        (flow / "flow.dag.yaml").write_text("nodes: []\n")
        (flow / "requirements.txt").write_text("a" + " " * size + "b # c\n" + "d\n" * size)
        return lambda: pack(flow, folder / f"packed{size}.{next(targets)}")

    return made


def prompt_of_roles(count: int) -> Read:
    return lambda: split_messages("# user:\nhi\n" * count)


def prompt_of_white_space(size: int) -> Read:
    prompt = (
        "# user:\nname:\nx\n" + " " * size + "y\n# user:\n" + "\n" * size + "# tool:\ntool_call_id:\nx" + " " * size
    )
    return lambda: split_messages(prompt + "\ncontent:\nhi")


def prompt_of_images(count: int) -> Read:
    images = PromptImages()
    values = images.printed({"images": [IMAGE] * count}, lists_as_lines=True)
    template = parse_template("{% for image in images %}# user:\n![image]({{ image }}) hi\n{% endfor %}", "p")
    return lambda: split_messages(template.render(values), images.parts)


def rendered(size: int) -> Read:
    template = parse_template("# user:\n{{ text }}", "p")
    return lambda: split_messages(template.render({"text": "# user:\n: \n" * size}))


def odd_value(count: int) -> Read:
    return lambda: dumps([{1: 2**70, "\ud800": "\ud800"}] * count)


def deep_value(count: int) -> Read:
    value: Any = 2**70
    for _ in range(199):
        value = [value]
    return lambda: dumps([value] * count)


def walked_value(count: int) -> Read:
    value = [{"a": [number], "b": "hi"} for number in range(count)]
    return lambda: (is_too_deep(value), is_longer_than(value, 10**9))


def redacted_text(size: int) -> Read:
    secrets = Secrets(f"secret-number-{number}" for number in range(20))
    return lambda: secrets.redact("secret-number-7 secret-number- " * size)


def redacted_value(count: int) -> Read:
    secrets = RunSecrets.of("a-long-secret", "12345678", "abc")
    return lambda: redact_value({f"abc {number}": "a-long-secret 12345678" for number in range(count)}, secrets)


def traced_messages(count: int) -> Read:
    sent = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}] * count
    return lambda: (input_messages(sent, Content()), output_message("hi" * count, "stop", Content()))


READERS: dict[str, tuple[Callable[[int], Read], int]] = {
    "chat messages": (many_conversations, 40_000),
    "messages of one role": (one_role, 100_000),
    "messages of two roles": (two_roles, 50_000),
    "invalid chat messages": (invalid_messages, 20_000),
    "content parts": (content_parts, 100_000),
    "an image's data URL": (text_of_a_data_url, 100_000),
    "an image's base64": (image_that_is_not_base64, 100_000),
    "items of a response": (response_items, 20_000),
    "messages of an application call": (application_messages, 20_000),
    "history of an application call": (application_history, 10_000),
    "messages of a generation call": (generation_messages, 20_000),
    "inputs of /run": (run_inputs, 40_000),
    "an input's JSON text": (json_text, 50_000),
    "an input's number": (long_number, 100_000),
    "Accept": (accept_header, 50_000),
    "a page's cursor": (cursor, 100_000),
    "feedback": (feedback, 200_000),
    "a stream of chat completions": (stream_of(ChatWire()), 20_000),
    "a stream of reasoning": (stream_of(ChatWire(), reasoning=True), 20_000),
    "a stream of Responses": (stream_of(ResponsesWire()), 20_000),
    "a stream of DashScope": (stream_of(DashScopeWire()), 20_000),
    "a long event": (long_event, 2_000_000),
    "an event of many lines": (event_of_many_lines, 200_000),
    "a whole chat completion": (whole_answer(ChatWire()), 100_000),
    "a whole answer of Responses": (whole_answer(ResponsesWire()), 100_000),
    "a whole answer of DashScope": (whole_answer(DashScopeWire()), 100_000),
    "tool calls": (answer_of_tool_calls, 10_000),
    "the outcome of a streamed run": (outcome_of(reasoning=False), 30_000),
    "the outcome of streamed reasoning": (outcome_of(reasoning=True), 30_000),
    "events of a response": (response_events, 10_000),
    "frames of DashScope": (dashscope_frames, 10_000),
    "events to store": (merged_events, 50_000),
    "stored events": (stored_events, 20_000),
    "roles of a prompt": (prompt_of_roles, 50_000),
    "white space in a prompt": (prompt_of_white_space, 200_000),
    "images of a prompt": (prompt_of_images, 5_000),
    "values of a template": (rendered, 10_000),
    "an odd value": (odd_value, 10_000),
    "a deep value": (deep_value, 50),
    "a value's size and depth": (walked_value, 20_000),
    "secrets in a text": (redacted_text, 50_000),
    "secrets in a value": (redacted_value, 20_000),
    "messages of a span": (traced_messages, 20_000),
}
FILES: dict[str, tuple[Callable[[Path], Callable[[int], Read]], int]] = {
    "a flow's YAML": (yaml_file, 300),
    "connections": (connections, 150),
    "requirements": (requirements, 400_000),
}


def seconds_of(read: Callable[[], object]) -> float:
    """Return the CPU time of this thread, without that of collections, which depend on the rest of the process."""
    gc.disable()
    try:
        started = time.thread_time()
        read()
        return time.thread_time() - started
    finally:
        gc.enable()


def repeat(read: Read, times: int) -> Callable[[], None]:
    def reads() -> None:
        for _ in range(times):
            read()

    return reads


def assert_linear(make: Callable[[int], Read], size: int, figures: dict[str, object]) -> None:
    """Fail unless twice the size costs less than LIMIT times the time.

    The median of some tries counts, and on a busy machine that of more tries. Each measures both sizes, so that what
    slows the machine down slows both.
    """
    once, twice = make(size), make(2 * size)
    times = max(1, math.ceil(LEAST_S / max(seconds_of(once), 1e-6)))
    ratios: list[float] = []
    for number in range(MAX_TRIES):
        small = seconds_of(repeat(once, times))
        ratios.append(seconds_of(repeat(twice, times)) / small)
        if number + 1 >= TRIES and median(ratios) < LIMIT:
            break
    figures["times the CPU time for twice the bytes"] = round(median(ratios), 2)
    assert median(ratios) < LIMIT, f"{2 * size} costs as many times as much as {size}: {sorted(ratios)}"


@pytest.mark.fault("a reader gets very many or very long items")
@pytest.mark.parametrize("name", READERS)
def test_twice_the_bytes_cost_a_reader_twice_the_cpu_time(name: str, figures: dict[str, object]) -> None:
    assert_linear(*READERS[name], figures)


@pytest.mark.parametrize("name", FILES)
def test_twice_as_long_a_file_costs_twice_the_cpu_time(name: str, tmp_path: Path, figures: dict[str, object]) -> None:
    make, size = FILES[name]
    assert_linear(make(tmp_path), size, figures)
