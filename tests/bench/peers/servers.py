"""Flowpod's peers, each in an environment of its own: the same flow, served as each of them documents it.

The environments lie in the one that the benchmark runs in, and have its interpreter.

None of them keeps a history. Logs of requests are off wherever there is a setting for it.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import Ask
from tests.bench.server import Mode, Place, Server, openai_ask, simple_ask

_HERE = Path(__file__).parent


def program(peer: str, name: str) -> str:
    """Return the path of a program in a peer's environment; raises AssertionError where it is not installed."""
    path = Path(sys.prefix) / "bench" / peer / "bin" / name
    assert path.exists(), f"{path} is not there: make bench-deps installs it"
    return str(path)


@dataclass(frozen=True)
class Hayhooks(Server):
    """hayhooks with a pipeline: streams over OpenAI's endpoint, answers in one piece over the pipeline's own."""

    def command(self, place: Place) -> list[str]:
        hayhooks = program("hayhooks", "hayhooks")
        return [hayhooks, "run", "--port", str(place.port), "--pipelines-dir", str(_HERE / "hayhooks")]

    def environment(self, place: Place) -> dict[str, str]:
        more = {"HAYHOOKS_HOST": "127.0.0.1", "HAYHOOKS_LOG_LEVEL": "WARNING", "HAYSTACK_TELEMETRY_ENABLED": "False"}
        return super().environment(place) | more

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        if mode == "whole":
            return Ask("/answer/run", {"question": question}, '"result": ?"([^"]+)"')
        ask = openai_ask(question, mode)
        return Ask(ask.path, {**ask.body, "model": "answer"}, ask.text)


@dataclass(frozen=True)
class Promptflow(Server):
    """promptflow's `pf flow serve` with its faster engine, on a DAG flow with one LLM node."""

    def command(self, place: Place) -> list[str]:
        pf = program("promptflow", "pf")
        home = place.folder / "home"
        home.mkdir()
        (home / "pf.yaml").write_text("telemetry: {enabled: 'false'}\n")
        connection = place.folder / "connection.yaml"
        connection.write_text(f"name: model\ntype: open_ai\napi_key: none\nbase_url: {place.model}\n")
        create = [pf, "connection", "create", "--file", str(connection)]
        subprocess.run(create, env=self.environment(place), check=True, capture_output=True, timeout=60)
        serve = [pf, "flow", "serve", "--source", str(_HERE / "promptflow" / "flow"), "--engine", "fastapi"]
        return [*serve, "--skip-open-browser", "--host", "127.0.0.1", "--port", str(place.port)]

    def environment(self, place: Place) -> dict[str, str]:
        return super().environment(place) | {
            "HOME": str(place.folder),
            "XDG_DATA_HOME": str(place.folder),
            "PF_HOME_DIRECTORY": str(place.folder / "home"),
            "PF_DISABLE_TRACING": "true",
            "PF_LOGGING_LEVEL": "WARNING",
            "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring",
        }

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        ask = simple_ask(question, mode)
        return Ask("/score", ask.body, ask.text, ask.headers)


@dataclass(frozen=True)
class LlamaAgents(Server):
    """llama-agents-server with a workflow of one step; a stream is two requests, as its client makes them."""

    def command(self, place: Place) -> list[str]:
        return [program("llama_agents", "python"), str(_HERE / "llama_agents" / "serve.py"), str(place.port)]

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        body = {"start_event": {"question": question, "stream": mode == "stream"}}
        if mode == "whole":
            return Ask("/workflows/answer/run", body, '"result": ?"([^"]+)"')
        events = "/events/{}?after_sequence=-1"
        return Ask("/workflows/answer/run-nowait", body, '"piece": ?"([^"]+)"', {}, '"handler_id": ?"([^"]+)"', events)


@dataclass(frozen=True)
class BentoML(Server):
    """BentoML with a service of one worker, which streams bare text."""

    def command(self, place: Place) -> list[str]:
        folder = str(_HERE / "bentoml")
        serve = [program("bentoml", "bentoml"), "serve", "service:Answer", "--working-dir", folder]
        return [*serve, "--host", "127.0.0.1", "--port", str(place.port)]

    def environment(self, place: Place) -> dict[str, str]:
        more = {
            "BENTOML_HOME": str(place.folder / "home"),
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_CONFIG_OPTIONS": "services.Answer.logging.access.enabled=false",
        }
        return super().environment(place) | more

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        return Ask(f"/{mode}", {"question": question}, r"(word\d )")


@dataclass(frozen=True)
class LiteLLM(Server):
    """LiteLLM's proxy, which passes a chat completion on to the model that its configuration names."""

    def command(self, place: Place) -> list[str]:
        parameters = {"model": "openai/mock", "api_base": place.model, "api_key": "none"}
        config = place.folder / "config.yaml"
        config.write_text(json.dumps({"model_list": [{"model_name": "mock", "litellm_params": parameters}]}))
        serve = [program("litellm", "litellm"), "--config", str(config), "--telemetry", "False"]
        return [*serve, "--host", "127.0.0.1", "--port", str(place.port)]

    def environment(self, place: Place) -> dict[str, str]:
        return super().environment(place) | {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no peer asks for a token
        }

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        return openai_ask(question, mode)


@dataclass(frozen=True)
class LangGraph(Server):
    """LangGraph's server as `langgraph dev` runs it, in memory, with a graph of one node that writes its chunks."""

    def command(self, place: Place) -> list[str]:
        shutil.copy(_HERE / "langgraph" / "graph.py", place.folder)
        config = {"dependencies": ["."], "graphs": {"answer": "./graph.py:graph"}}
        (place.folder / "langgraph.json").write_text(json.dumps(config))
        serve = [program("langgraph", "langgraph"), "dev", "--no-browser", "--no-reload", "--n-jobs-per-worker", "256"]
        # It keeps its state in the folder that it is started in.
        return ["env", f"--chdir={place.folder}", *serve, "--host", "127.0.0.1", "--port", str(place.port)]

    def environment(self, place: Place) -> dict[str, str]:
        quiet = {"LOG_LEVEL": "ERROR", "LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGSMITH_TRACING": "false"}
        return super().environment(place) | quiet

    def ask(self, endpoint: str, mode: Mode, question: str) -> Ask:
        body = {"assistant_id": "answer", "input": {"question": question, "stream": mode == "stream"}}
        if mode == "whole":
            return Ask("/runs/wait", body, '"answer": ?"([^"]+)"')
        return Ask("/runs/stream", {**body, "stream_mode": "custom"}, '"piece": ?"([^"]+)"')


PEERS = (
    Hayhooks("hayhooks"),
    Promptflow("promptflow"),
    LlamaAgents("llama-agents"),
    BentoML("bentoml"),
    LiteLLM("litellm"),
    LangGraph("langgraph"),
)
