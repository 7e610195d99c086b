"""One call of a model, traced: what an `llm` node, or any other node that needs a model, is made of."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from flowpod.errors import NodeError, text_of
from flowpod.models.base import Chunk, Model, ModelRequest, Result
from flowpod.telemetry.model_call import CALL, ModelCall
from flowpod.telemetry.tracing import Tracing

# The names that OpenTelemetry's GenAI conventions give to providers.
_PROVIDERS = {"open_ai": "openai", "azure_open_ai": "azure.ai.openai", "serverless": "azure.ai.inference"}


@dataclass(frozen=True, slots=True)
class AskContext:
    """Where a call is traced, and whether a reader takes its chunks as they come."""

    tracing: Tracing
    streaming: bool = False


async def ask(
    model: Model, prompt: str | Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], context: AskContext
) -> AsyncGenerator[Chunk | Result, None]:
    """Call `model` under a client span and yield the answer's chunks, then its Result with the usage.

    `prompt` is a list of messages, or a text for a plain completion; `parameters` name the `model`. Raises NodeError,
    which is recorded on the span.
    """
    call = _start_call(model, prompt, parameters, context)
    request = ModelRequest(prompt, parameters, context.streaming, call.headers())
    try:
        async with aclosing(model.answer(request)) as answer:
            started = not context.streaming
            async for item in answer:
                if isinstance(item, Result):
                    usage = None if item.usage is None else (item.usage.prompt_tokens, item.usage.completion_tokens)
                    call.set_response(item.value, item.model, item.finish_reason, usage)
                elif not started:
                    call.record_first_chunk()
                    started = True
                yield item
    except Exception as error:
        code = error.code if isinstance(error, NodeError) else type(error).__name__
        call.set_error(code)
        context.tracing.fail(call.span, text_of(error), code, error)
        raise
    finally:
        call.end()
        CALL.set(None)  # not by a token: a generator that is abandoned may be closed in another context


async def whole_answer(answer: AsyncGenerator[Chunk | Result, None]) -> Result:
    """Return the Result of an answer whose chunks nobody reads."""
    result: Result | None = None
    async for item in answer:
        if isinstance(item, Result):
            result = item
    assert result is not None  # every answer ends with one, or raises
    return result


def _start_call(
    model: Model, prompt: str | Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], context: AskContext
) -> ModelCall:
    provider = _PROVIDERS.get(model.connection_type, model.connection_type)
    operation = "text_completion" if isinstance(prompt, str) else "chat"
    call = context.tracing.start_model_call(str(parameters["model"]), provider, model.address, operation)
    CALL.set(call)
    call.set_request(prompt, parameters, stream=context.streaming)
    return call
