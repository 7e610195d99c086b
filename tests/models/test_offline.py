from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from flowpod.engine.events import RunOutput, RunTerminated
from flowpod.models.base import Chunk, ModelRequest, Result
from flowpod.models.offline import MODEL, OfflineModel, extract
from flowpod.service import FlowService
from tests.support.flows import events_of, service_of
from tests.support.serving import ROOT

MYSQL = {"inputs": {"question": "how do I keep history in MySQL?"}, "outputs": {"answer": "Set FLOWPOD_HISTORY."}}


@pytest_asyncio.fixture
async def handbook() -> AsyncIterator[FlowService]:
    """The packaged flow, none of whose variables is set."""
    async with service_of(ROOT / "flow") as service:
        yield service


async def ask(service: FlowService, question: str, history: Sequence[Any] = ()) -> str:
    events = await events_of(service, {"question": question, "chat_history": list(history)})
    assert isinstance(events[-1], RunTerminated)
    assert events[-1].status == "Completed"
    return "".join(event.delta for event in events if isinstance(event, RunOutput))


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        ("how do I keep history in MySQL", "FLOWPOD_HISTORY=mysql://user:password@host/database"),
        ("What is Flowpod?", "Flowpod serves an LLM application flow over HTTP."),
        ("How do I start the server?", "make serve"),
        ("How can I serve my own flow?", "flowpod serve path/to/flow"),
        ("How do I stream the answer?", "Accept: text/event-stream"),
        ("How do I use it with an OpenAI client?", "http://127.0.0.1:8080/v1"),
        ("Can I use Chatbox?", "/chat/completions"),
        ("Where is the chat history stored?", "chat_history.db"),
        ("How do I turn the history off?", "FLOWPOD_HISTORY=off"),
        ("How do I rotate a token?", "Add the new token to FLOWPOD_TOKENS"),
        ("How do I send traces to a collector?", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("What does status 424 mean?", "the run failed"),
        ("How many worker processes can I run?", "--workers 4"),
        ("How do I skip a node?", "activate"),
        ("How do I connect Ollama?", "local servers such as Ollama"),
        ("What is the largest request body?", "10 MiB"),
        ("How long may a run take?", "570"),
        ("How do I tell users apart?", "Chat-User-Id"),
        ("Which model answers when no key is set?", "offline-extract"),
        ("How do I run a flow in the terminal?", "flowpod run path/to/flow"),
    ],
)
async def test_handbook_answers_a_plain_question(handbook: FlowService, question: str, phrase: str) -> None:
    assert phrase in await ask(handbook, question)


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        ("and in SQLite?", "chat_history.db"),
        ("and how do I switch it off?", "FLOWPOD_HISTORY=off"),
        ("how many turns?", "history: {rounds: N}"),
    ],
)
async def test_handbook_answers_a_follow_up_question(handbook: FlowService, question: str, phrase: str) -> None:
    assert phrase in await ask(handbook, question, [MYSQL])


@pytest.mark.parametrize("question", ["Who won the football world cup?", "asdfgh qwerty", "?", "", "天气怎么样"])
async def test_handbook_says_when_it_holds_nothing_about_a_question(handbook: FlowService, question: str) -> None:
    assert (await ask(handbook, question)).startswith("I found nothing about that")


def prompt(question: str, *passages: tuple[str, str]) -> list[dict[str, str]]:
    marked = "\n".join(f'<passage title="{title}">\n{text}\n</passage>' for title, text in passages)
    return [{"role": "system", "content": f"Answer.\n{marked}"}, {"role": "user", "content": question}]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (prompt("What do cats eat?", ("Cats", "Cats eat fish."), ("Dogs", "Dogs bark at night.")), "Cats eat fish."),
        (
            prompt("Where is Mars?", ("Cats", "Cats eat fish."), ("Dogs", "Dogs bark.")),
            "I found nothing about that in the text that I was given. It covers: Cats, Dogs.",
        ),
        (prompt("Where is Mars?"), "I found nothing about that."),
        (
            [{"role": "system", "content": "Mars is red. Venus is hot."}, {"role": "user", "content": "Mars?"}],
            "Mars is red.",
        ),
        ([{"role": "user", "content": "Where is Mars?"}], "I found nothing about that."),
        ([{"role": "system", "content": "Mars is red."}], "I found nothing about that."),
        ([], "I found nothing about that."),
        (prompt("fish", ("Cats", "")), "I found nothing about that in the text that I was given. It covers: Cats."),
    ],
)
def test_answer_is_made_of_the_passages_alone(messages: list[dict[str, str]], expected: str) -> None:
    assert extract(messages) == expected


def test_answer_is_the_same_each_time() -> None:
    messages = prompt("cats and dogs", *((f"Cats {n}", f"Cats {n} eat fish. Dogs {n} bark.") for n in range(20)))
    assert len({extract(messages) for _ in range(5)}) == 1


@pytest.mark.parametrize("text", ["Cats eat fish.", "Cats eat:\n- fish\n- mice\n\nCats  sleep  `a b`."])
async def test_streamed_chunks_join_to_the_whole_answer(text: str) -> None:
    messages = prompt("What do cats eat?", ("Cats", text))
    *chunks, result = [part async for part in OfflineModel().answer(ModelRequest(messages, {}, True))]
    [whole, same] = [part async for part in OfflineModel().answer(ModelRequest(messages, {}))]
    assert isinstance(result, Result)
    assert len(chunks) > 1
    assert whole == Chunk(result.value)
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk)) == result.value
    assert same == result
    assert (result.model, result.usage, result.finish_reason) == (MODEL, None, "stop")
