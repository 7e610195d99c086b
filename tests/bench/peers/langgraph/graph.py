"""The measured flow as a graph of LangGraph: question, one model, answer."""

from typing import TypedDict

import openai
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """What the graph hands on."""

    question: str
    stream: bool
    answer: str


client = openai.AsyncOpenAI()  # the model's address is in the environment


async def reply(state: State) -> State:
    """Ask the model, and write each piece of a stream."""
    if not state.get("stream"):
        completion = await client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": state["question"]}]
        )
        return {"answer": completion.choices[0].message.content or ""}
    write = get_stream_writer()
    chunks = await client.chat.completions.create(
        model="mock", messages=[{"role": "user", "content": state["question"]}], stream=True
    )
    async for chunk in chunks:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            write({"piece": text})
    return {}


graph = StateGraph(State).add_node(reply).add_edge(START, "reply").add_edge("reply", END).compile()
