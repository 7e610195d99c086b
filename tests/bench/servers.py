"""All servers that can be measured, by name: the model, the limits, Flowpod and its peers."""

import sys
from dataclasses import dataclass, field, replace

from tests.bench.load import UNIQUE, Ask
from tests.bench.peers.servers import PEERS
from tests.bench.server import Mode, Place, Server, openai_ask, simple_ask
from tests.support.flows import write_chat_flow, write_flow

_SESSION = {"chat-session-id": UNIQUE}

FLOW = """
inputs:
  question: {type: string, is_chat_input: true}
outputs:
  answer: {type: string, reference: "${reply.output}", is_chat_output: true}
nodes:
- name: reply
  type: llm
  source: {type: code, path: reply.jinja2}
  connection: model
  inputs: {model: mock, question: "${inputs.question}"}
"""
PROMPT = "# user:\n{{ question }}\n"


@dataclass(frozen=True)
class Limit(Server):
    """The least that a server can do; see tests/bench/limit.py."""

    kind: str = "events"

    def command(self, place: Place) -> list[str]:
        return [sys.executable, "-m", "tests.bench.limit", self.kind, place.model, "--port", str(place.port)]

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        ask = simple_ask(question, mode)
        as_the_model = self.kind == "bytes" and mode == "stream"
        return replace(ask, text=openai_ask(question, mode).text) if as_the_model else ask


@dataclass(frozen=True)
class Model(Server):
    """The mock model itself, asked directly: what the client and the model can do."""

    endpoints: tuple[str, ...] = ("/v1",)

    def command(self, place: Place) -> list[str]:
        return [sys.executable, "-m", "tests.bench.mock_model", "--port", str(place.port)]

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        return openai_ask(question, mode)


@dataclass(frozen=True)
class Flowpod(Server):
    """`flowpod serve`, with one worker by default; every request is the first turn of a session that it names.

    With `chat` its flow has the chat history in its prompt, so that each run reads it, too.
    """

    endpoints: tuple[str, ...] = ("/", "/run", "/v1")
    settings: dict[str, str] = field(default_factory=dict)
    chat: bool = False
    workers: int = 1

    def command(self, place: Place) -> list[str]:
        flow = place.folder / "flow"
        connections = f"model: {{type: open_ai, base_url: '{place.model}', api_key: none}}\n"
        if self.chat:
            write_chat_flow(flow, place.model, "mock")
        else:
            write_flow(flow, FLOW, {"reply.jinja2": PROMPT, "connections.yaml": connections})
        serve = [sys.executable, "-m", "flowpod", "serve", str(flow), "--port", str(place.port)]
        return [*serve, "--workers", str(self.workers)]

    def environment(self, place: Place) -> dict[str, str]:
        data = {"FLOWPOD_DATA_DIR": str(place.folder / "data"), "FLOWPOD_DRAIN_DELAY_S": "0"}
        return super().environment(place) | data | self.settings

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        match endpoint:
            case "/run":
                body = {
                    "inputs": {"question": question},
                    "stream": mode == "stream",
                    "response_config": {"include_node_output": True},
                }
                return Ask("/run", body, r'"outputs":{"answer":"([^"]+)"}', _SESSION)
            case "/v1":
                return openai_ask(question, mode, _SESSION)
            case _:
                return simple_ask(question, mode, _SESSION)


OFF = {"FLOWPOD_HISTORY": "off", "FLOWPOD_TRACING": "off"}
SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        Model("model"),
        Limit("bytes", kind="bytes"),
        Limit("limit", kind="events"),
        Limit("limit-batched", kind="batched"),
        Flowpod("flowpod"),
        Flowpod("flowpod-off", settings=OFF),
        Flowpod("flowpod-no-history", endpoints=("/",), settings={"FLOWPOD_HISTORY": "off"}),
        Flowpod("flowpod-no-tracing", endpoints=("/",), settings={"FLOWPOD_TRACING": "off"}),
        Flowpod("flowpod-chat", endpoints=("/",), chat=True),
        *PEERS,
    )
}
