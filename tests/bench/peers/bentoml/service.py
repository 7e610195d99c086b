"""The measured flow as a service of BentoML: question, one model, answer."""

from collections.abc import AsyncGenerator

import bentoml
import openai


@bentoml.service(workers=1, traffic={"timeout": 300})
class Answer:
    """What BentoML serves; the model's address is in the environment."""

    def __init__(self) -> None:
        self._client = openai.AsyncOpenAI()

    @bentoml.api  # type: ignore[untyped-decorator]
    async def stream(self, question: str) -> AsyncGenerator[str, None]:
        """Answer with a stream of bare text."""
        chunks = await self._client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": question}], stream=True
        )
        async for chunk in chunks:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text

    @bentoml.api  # type: ignore[untyped-decorator]
    async def whole(self, question: str) -> str:
        """Answer in one piece."""
        completion = await self._client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": question}]
        )
        return completion.choices[0].message.content or ""
