"""The measured flow as a pipeline of hayhooks: question, one model, answer."""

from collections.abc import AsyncGenerator
from typing import Any

from hayhooks import BasePipelineWrapper, async_streaming_generator
from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage


class PipelineWrapper(BasePipelineWrapper):  # type: ignore[misc]  # hayhooks is not in our environment
    """What hayhooks serves; the model's address is in the environment."""

    def setup(self) -> None:
        """Build the pipeline."""
        self.pipeline = Pipeline()
        prompt = ChatPromptBuilder(template=[ChatMessage.from_user("{{ question }}")], required_variables="*")
        self.pipeline.add_component("prompt", prompt)
        self.pipeline.add_component("reply", OpenAIChatGenerator(model="mock"))
        self.pipeline.connect("prompt.prompt", "reply.messages")

    async def run_api_async(self, question: str) -> str:
        """Answer in one piece."""
        result = await self.pipeline.run_async({"prompt": {"question": question}})
        return str(result["reply"]["replies"][0].text)

    async def run_chat_completion_async(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Answer with a stream."""
        inputs = {"prompt": {"question": messages[-1]["content"]}}
        stream: AsyncGenerator[Any, None] = async_streaming_generator(self.pipeline, pipeline_run_args=inputs)
        return stream
