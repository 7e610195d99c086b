"""The measured flow as a workflow of LlamaIndex, served by llama-agents-server: question, one model, answer."""

import asyncio
import sys

import openai
from llama_agents.server import WorkflowServer
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent


class Question(StartEvent):  # type: ignore[misc]  # not in our environment
    """The input."""

    question: str
    stream: bool = False


class Piece(Event):  # type: ignore[misc]
    """A piece of the answer."""

    piece: str


class Answer(Workflow):  # type: ignore[misc]
    """What is served; the model's address is in the environment."""

    def __init__(self) -> None:
        super().__init__(timeout=300)
        self._client = openai.AsyncOpenAI()

    @step  # type: ignore[untyped-decorator]
    async def reply(self, context: Context, event: Question) -> StopEvent:
        """Ask the model."""
        if not event.stream:
            completion = await self._client.chat.completions.create(
                model="mock", messages=[{"role": "user", "content": event.question}]
            )
            return StopEvent(result=completion.choices[0].message.content)
        chunks = await self._client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": event.question}], stream=True
        )
        async for chunk in chunks:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                context.write_event_to_stream(Piece(piece=text))
        return StopEvent(result="done")


if __name__ == "__main__":
    server = WorkflowServer()
    server.add_workflow("answer", Answer())
    asyncio.run(server.serve("127.0.0.1", int(sys.argv[1]), {"access_log": False}))
